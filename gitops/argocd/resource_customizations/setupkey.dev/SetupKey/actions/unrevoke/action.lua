-- Lets the key admit peers again, if it has not expired and is not used up.
obj.spec.revoked = false
return obj
