-- Health of an Authority: whether its setup keys can be listed and changed.
local health = { status = "Progressing", message = "Waiting for the operator to call NetBird" }
local status = obj.status
if status == nil or status.observedGeneration ~= obj.metadata.generation then
  return health
end

local conditions = {}
for _, condition in ipairs(status.conditions or {}) do
  conditions[condition.type] = condition
end
local stalled, ready = conditions.Stalled, conditions.Ready
if stalled ~= nil and stalled.status == "True" then
  return { status = "Degraded", message = stalled.message }
end
if ready == nil then
  return health
end
-- A server that does not answer comes back without a change of the object.
health.status = ready.status == "True" and "Healthy" or "Progressing"
health.message = ready.message
return health
