-- admit_v1: a place for a job that is to be made: on the index of open jobs, and among its tenant's. Under the job's
-- name, so that a repetition takes no second place; a refusal takes none. A job that is then not made gives both
-- back: the tenant's when the lease ends, the index's by the reaper, which finds no job behind it.
-- KEYS: 1 index of open jobs, 2 the tenant's places, 3 the tenant's tokens of the day, 4 its share of the store
-- ARGV: 1 `tenant/job`, 2 job id, 3 (creation ms), 4 (most open jobs), 5 (most of the tenant, or 0),
--       6 (lease ms), 7 (tokens a day, or 0), 8 (ms of its share that the job takes, or 0), 9 (ms of the whole share)
-- Answers {OK, ms by the store's clock}, {FULL}, {PLACES}, {TOKENS} or {SHARE, ms to wait}.
local now = now_ms()
local known = redis.call('ZSCORE', KEYS[2], ARGV[2])
if not known then
  local spent = tonumber(redis.call('HGET', KEYS[3], 'total') or '0')
  if tonumber(ARGV[7]) > 0 and spent >= tonumber(ARGV[7]) then return {'TOKENS'} end
  redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', int(now))
  local most = tonumber(ARGV[5])
  if most > 0 and redis.call('ZCARD', KEYS[2]) >= most then
    -- A worker from before there were places gives none back: one whose job is not open any more is free.
    local tenant = string.sub(ARGV[1], 1, #ARGV[1] - #ARGV[2])
    local some = redis.call('ZRANDMEMBER', KEYS[2], 50)
    for i = 1, #some do
      if not redis.call('ZSCORE', KEYS[1], tenant .. some[i]) then redis.call('ZREM', KEYS[2], some[i]) end
    end
    if redis.call('ZCARD', KEYS[2]) >= most then return {'PLACES'} end
  end
  local indexed = redis.call('ZSCORE', KEYS[1], ARGV[1])
  if not indexed and redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[4]) then return {'FULL'} end
  if tonumber(ARGV[8]) > 0 then
    -- The moment at which all has come back. One job may pass the share, so that none is too large for ever; a moment
    -- that a clock ahead has left behind counts for twice the share at most.
    local whole = tonumber(ARGV[9])
    local free = math.min(tonumber(redis.call('GET', KEYS[4]) or '0'), now + 2 * whole)
    if free - now >= whole then return {'SHARE', int(free - now - whole + 1)} end
    free = math.max(free, now) + tonumber(ARGV[8])
    redis.call('SET', KEYS[4], int(free), 'PX', int(free - now + 1000))
  end
  redis.call('ZADD', KEYS[2], int(now + tonumber(ARGV[6])), ARGV[2])
  if redis.call('PTTL', KEYS[2]) < tonumber(ARGV[6]) then redis.call('PEXPIRE', KEYS[2], ARGV[6]) end
end
redis.call('ZADD', KEYS[1], 'NX', ARGV[3], ARGV[1])
return {'OK', int(now)}
