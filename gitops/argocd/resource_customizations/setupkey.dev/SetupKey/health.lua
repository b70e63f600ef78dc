-- Health of a SetupKey: whether it does what its author expects.
local health = { status = "Progressing", message = "Waiting for the operator to apply the latest change" }
local status = obj.status
if status == nil or status.observedGeneration ~= obj.metadata.generation then
  return health
end

local conditions = {}
for _, condition in ipairs(status.conditions or {}) do
  conditions[condition.type] = condition
end
local stalled, ready, valid = conditions.Stalled, conditions.Ready, conditions.Valid
if stalled ~= nil and stalled.status == "True" then
  return { status = "Degraded", message = stalled.message }
end
if ready == nil or valid == nil then
  return health
end
-- The operator waits for something that comes by itself, such as an answer of NetBird, and says for what.
if ready.status ~= "True" then
  return { status = "Progressing", message = ready.message }
end

-- A revoked key is what its author asked for, and a used one-off key has done its work. A key that expired or reached
-- its limit is degraded: machines may still try to join with it.
local of_state = { valid = "Healthy", revoked = "Suspended", expired = "Degraded", overused = "Degraded" }
health.status = of_state[status.state] or "Progressing"
if status.state == "overused" and obj.spec.type == "one-off" then
  health.status = "Healthy"
end
health.message = valid.message
return health
