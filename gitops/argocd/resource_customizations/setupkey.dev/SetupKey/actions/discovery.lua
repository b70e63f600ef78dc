-- What can be done with a SetupKey by hand: the one that changes something is offered.
local revoked = obj.spec.revoked == true
return {
  ["revoke"] = { ["disabled"] = revoked },
  ["unrevoke"] = { ["disabled"] = not revoked },
}
