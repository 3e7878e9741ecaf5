-- create_v1: a job comes to be, with `queued` in its log. Idempotent by the job's id.
-- ARGV: 1 request JSON, 2 provider, 3 model, 4 `queued` JSON, 5 ms to the deadline, 6 retention ms, 7 on_interrupt,
--       8 priority, 9 ms after which it is cancelled if nobody reads it, or ''
-- Answers {OK, created_ms, new 0|1} or {GONE} where a job of this id has been and went.
local known = redis.call('HGET', KEYS[1], 'created_ms')
if known then
  redis.call('HSET', KEYS[1], 'created_ms', known)  -- a write, for WAIT to wait for
  return {'OK', known, '0'}
end
if redis.call('EXISTS', KEYS[5]) == 1 then return {'GONE'} end

local now = now_ms()
local deadline = now + tonumber(ARGV[5])
local live_until = deadline + OPEN_SLACK_MS
redis.call('HSET', KEYS[1], 'request', ARGV[1], 'provider', ARGV[2], 'model', ARGV[3], 'status', 'queued',
  'created_ms', int(now), 'deadline_ms', int(deadline), 'live_until_ms', int(live_until), 'ttl_ms', ARGV[6],
  'on_interrupt', ARGV[7], 'priority', ARGV[8], 'epoch', '0', 'attempt', '0', 'crashes', '0', 'usage', '{}')
if ARGV[9] ~= '' then redis.call('HSET', KEYS[1], 'unread_ms', ARGV[9]) end
add(0, 1, 'q@' .. int(now), ARGV[4])
redis.call('PEXPIREAT', KEYS[1], int(live_until))
redis.call('PEXPIREAT', KEYS[2], int(live_until))
redis.call('SET', KEYS[5], 'live', 'PXAT', int(live_until + TOMBSTONE_MS))
wake(0, 1)
return {'OK', int(now), '1'}
