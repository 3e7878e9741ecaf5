-- sit_v1: a worker keeps the seats of what it runs; one that lapsed while the store was away is taken again.
-- ARGV: 1 ms of a seat, 2… offers
-- Answers {how many}.
local until_ms = int(now_ms() + tonumber(ARGV[1]))
for i = 2, #ARGV do
  local seats = RUNNING_PREFIX .. tenant_of(ARGV[i])
  redis.call('ZADD', seats, until_ms, ARGV[i])
  redis.call('PEXPIRE', seats, ARGV[1])
end
return {#ARGV - 1}
