-- Asks for the next key, once. The Secret gets another value, and the replaced key admits peers until its overlap is over.
-- A time is asked for, and not a rotation as such, so an annotation that is put back later rotates nothing.
local annotations = obj.metadata.annotations or {}
annotations["setupkey.dev/rotate-requested-at"] = os.date("!%Y-%m-%dT%H:%M:%SZ")
obj.metadata.annotations = annotations
return obj
