-- readers_v1: a node tells which readers of a key have come to it and gone from it, and hears which of its own have to
-- go, as the oldest of too many. A node that falls silent for a lease is forgotten, and its readers with it.
-- KEYS: 1 the key's readers, a sorted set `node/number` by when they came, 2 the nodes that have some, by when their
--       leases end
-- ARGV: 1 (node), 2 (lease ms), 3 (most readers), 4 (how many have come), 5… (their numbers), then of those that went
-- Answers {known 0|1, number…}: whether the node was known; if not, all its readers have to be told again.
local now = now_ms()
local mine = ARGV[1] .. '/'
local silent = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', int(now))
if #silent > 0 then
  local all = redis.call('ZRANGE', KEYS[1], 0, -1)
  for i = 1, #silent do
    local theirs = silent[i] .. '/'
    for k = 1, #all do
      if string.sub(all[k], 1, #theirs) == theirs then redis.call('ZREM', KEYS[1], all[k]) end
    end
    redis.call('ZREM', KEYS[2], silent[i])
  end
end
local known = redis.call('ZSCORE', KEYS[2], ARGV[1]) and '1' or '0'
local come = tonumber(ARGV[4])
for i = 5, 4 + come do redis.call('ZADD', KEYS[1], 'NX', int(now), mine .. ARGV[i]) end
for i = 5 + come, #ARGV do redis.call('ZREM', KEYS[1], mine .. ARGV[i]) end
redis.call('ZADD', KEYS[2], int(now + tonumber(ARGV[2])), ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('PEXPIRE', KEYS[2], ARGV[2])
local answer = {known}
local over = redis.call('ZCARD', KEYS[1]) - tonumber(ARGV[3])
if over > 0 then
  local oldest = redis.call('ZRANGE', KEYS[1], 0, over - 1)
  for i = 1, #oldest do
    if string.sub(oldest[i], 1, #mine) == mine then answer[#answer + 1] = string.sub(oldest[i], #mine + 1) end
  end
end
return answer
