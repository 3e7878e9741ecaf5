-- permits_v1: the requests that a node may let pass within a moment: as many of those it wants as the bucket holds.
-- KEYS: 1 the bucket, a string: when (µs since 1970) it is full again. The store's clock is that of all nodes.
-- ARGV: 1 permits a second, 2 the most at once, 3 permits wanted
-- Answers {granted, left, ms until there is one}. Not idempotent: a lost reply costs the permits that it granted.
local t = redis.call('TIME')
local now = tonumber(t[1]) * 1000000 + tonumber(t[2])
local each, most = 1000000 / tonumber(ARGV[1]), tonumber(ARGV[2])
local known = tonumber(redis.call('GET', KEYS[1]) or '0')
-- Never later than an empty bucket's: a server before a failover may have had a clock that was ahead of this one's.
local full = math.min(math.max(now, known), now + most * each)
local left = math.max(0, math.floor(most - (full - now) / each + 0.000001))
local granted = math.min(tonumber(ARGV[3]), left)
if granted > 0 or known > full then
  full = full + granted * each
  redis.call('SET', KEYS[1], int(math.ceil(full)), 'PX', int(math.ceil((full - now) / 1000) + 1000))
end
local wait = 0
if granted == left then wait = math.max(0, math.ceil((full - now - (most - 1) * each) / 1000)) end
return {int(granted), int(left - granted), int(wait)}
