-- Stops the key from admitting peers. Peers that have joined, and the Secret, stay.
obj.spec.revoked = true
return obj
