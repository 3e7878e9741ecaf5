-- leave_v1: what had seats has ended here; where something of the same tenant waits, a bell is rung.
-- ARGV: 1… offers
-- Answers {how many seats became free}.
local left = 0
for i = 1, #ARGV do
  local tenant = tenant_of(ARGV[i])
  left = left + redis.call('ZREM', RUNNING_PREFIX .. tenant, ARGV[i])
  if redis.call('EXISTS', WAITING_PREFIX .. tenant) == 1 then ring_bell(ARGV[i]) end
end
return {left}
