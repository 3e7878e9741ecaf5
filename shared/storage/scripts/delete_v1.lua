-- delete_v1: hide an ended job at once; its content goes after ERASE_MS, so that readers still get their last event.
-- ARGV: none. Answers {OK}, {OPEN} (end it first) or {GONE}. Idempotent by nature.
local status = redis.call('HGET', KEYS[1], 'status')
if not status then
  if redis.call('EXISTS', KEYS[5]) == 0 then return {'GONE'} end
  redis.call('SET', KEYS[5], 'deleted', 'PX', int(TOMBSTONE_MS))
  return {'OK'}
end
if next(TRANSITIONS[status]) ~= nil then return {'OPEN'} end
redis.call('SET', KEYS[5], 'deleted', 'PX', int(TOMBSTONE_MS))
for i = 1, 4 do
  local left = redis.call('PTTL', KEYS[i])
  if left < 0 or left > ERASE_MS then redis.call('PEXPIRE', KEYS[i], int(ERASE_MS)) end
end
return {'OK'}
