-- The manual actions on a SetupKey. Only the one that changes something is enabled.
local revoked = obj.spec.revoked == true
return {
  ["revoke"] = { ["disabled"] = revoked },
  ["unrevoke"] = { ["disabled"] = not revoked },
}
