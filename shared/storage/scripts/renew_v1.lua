-- renew_v1: the owner keeps its lease. PEXPIRE works when memory is full; the lease is set again only where it lapsed
-- while the epoch is still the owner's (the store was away for longer than a lease).
-- ARGV: 1 worker, 2 epoch, 3 lease ms
-- Answers {OK}, {LOST}, {ENDED}, {STALE} (a failover lost my claim) or {GONE}. Idempotent by nature.
local mine = ARGV[1] .. ':' .. ARGV[2]
local lease = redis.call('GET', KEYS[3])
if lease == mine then
  redis.call('PEXPIRE', KEYS[3], ARGV[3])
  return {'OK'}
end
if lease then return {'LOST'} end
local m = redis.call('HMGET', KEYS[1], 'status', 'epoch')
if not m[1] then return {'GONE'} end
if next(TRANSITIONS[m[1]]) == nil then return {'ENDED'} end
if tonumber(m[2]) < tonumber(ARGV[2]) then return {'STALE'} end
if tonumber(m[2]) > tonumber(ARGV[2]) or m[1] ~= 'running' then return {'LOST'} end
redis.call('SET', KEYS[3], mine, 'PX', ARGV[3])
return {'OK'}
