-- release_v1: the owner gives the job back unfinished (drain). Not a crash; the next claim says `drained`.
-- ARGV: 1 operation token, 2 worker, 3 epoch, 4 usage JSON so far
-- Answers {OK}, {LOST} or {GONE}.
local before = done_before(ARGV[1])
if before then return before end
local m = redis.call('HMGET', KEYS[1], 'status', 'epoch')
if not m[1] then return {'GONE'} end
local next_status = TRANSITIONS[m[1]]['release']
local lease = redis.call('GET', KEYS[3])
if not next_status or m[2] ~= ARGV[3] or (lease and lease ~= ARGV[2] .. ':' .. ARGV[3]) then return {'LOST'} end
redis.call('HSET', KEYS[1], 'status', next_status, 'usage', ARGV[4], 'why', 'drained')
redis.call('DEL', KEYS[3])
return remember(ARGV[1], {'OK'})
