-- pardon_v1: one crash is not counted any more, once in a job's life, while it runs at this worker: it has outlived the
-- time in which it was suspected (docs/decisions/0016).
-- ARGV: 1 worker
-- Answers {OK} or {LOST} (it does not run there). Idempotent by nature.
local lease = redis.call('GET', KEYS[3])
if not lease or string.sub(lease, 1, #ARGV[1] + 1) ~= ARGV[1] .. ':' then return {'LOST'} end
if redis.call('HSETNX', KEYS[1], 'pardoned', '1') == 1 then redis.call('HINCRBY', KEYS[1], 'crashes', -1) end
return {'OK'}
