-- The manual actions on a SetupKey. Only those that change something are enabled: a key at an authority cannot be rotated
-- while it is revoked.
local revoked = obj.spec.revoked == true
return {
  ["revoke"] = { ["disabled"] = revoked },
  ["unrevoke"] = { ["disabled"] = not revoked },
  ["rotate"] = { ["disabled"] = revoked and obj.spec.authorityRef ~= nil },
}
