-- claim_v1: a worker takes the job: a new epoch, `reset` and `start` in the log, the lease set.
-- ARGV: 1 operation token, 2 worker, 3 random 1..999999, 4 lease ms, 5 my running epoch ('' for a fresh claim),
--       6 reason of the reset ('' = find out), 7 usage JSON so far ('' = as stored), 8 code points to keep ('' = none
--       known), 9 last id that 8 was counted at, 10 epoch that the offer was made under ('' = any), 11 upstream to
--       go on from ('' = as stored)
-- Answers {OK, epoch, seq, attempt, at_ms, [field, value, … of the record as it is now]} or {verdict, …}: GONE, ENDED, BUSY, STALE, DEADLINE, POISONED, EXHAUSTED,
-- INTERRUPTED, LOGLESS (each with the epoch, for `end`), or {NEED_TEXT, last id, upstream}: count the
-- text first, then claim again.
local before = done_before(ARGV[1])
if before then
  before[6] = redis.call('HGETALL', KEYS[1])
  return before
end

local m = redis.call('HMGET', KEYS[1], 'status', 'epoch', 'attempt', 'crashes', 'created_ms', 'deadline_ms', 'queue_ms',
  'ttft_ms', 'on_interrupt', 'provider', 'model', 'why', 'upstream')
local status, epoch, attempt, crashes = m[1], tonumber(m[2]), tonumber(m[3]), tonumber(m[4])
if not status then return {'GONE'} end
local next_status = TRANSITIONS[status]['claim']
if not next_status then return {'ENDED', status} end

local lease = redis.call('GET', KEYS[3])
local again = ARGV[5] ~= ''
if lease and not (again and lease == ARGV[2] .. ':' .. ARGV[5]) then return {'BUSY'} end
if again and epoch > tonumber(ARGV[5]) then return {'BUSY'} end

-- An old offer, of a job that was claimed since: its worker may live although the lease has lapsed with the store away.
if ARGV[10] ~= '' and tonumber(ARGV[10]) ~= epoch then return {'STALE'} end

local now = now_ms()
local why = ARGV[6]
if not again then
  if status == 'running' then
    crashes = crashes + 1
    why = 'worker_lost'
  else
    why = m[12] or 'worker_lost'
  end
end
if now >= tonumber(m[6]) then return {'DEADLINE', int(epoch)} end
if crashes >= MAX_CRASHES then return {'POISONED', int(epoch)} end
if attempt >= MAX_ATTEMPTS then return {'EXHAUSTED', int(epoch)} end
local content = m[8] and true or false
local upstream = m[13]
if content and m[9] == 'fail' and not upstream then return {'INTERRUPTED', int(epoch), why} end

local last_epoch, last_seq = last_id(KEYS[2])
if not last_epoch then return {'LOGLESS', int(epoch)} end
local keep = '0'
if content and (m[9] == 'continue' or upstream) then
  local last = int(last_epoch) .. '-' .. int(last_seq)
  if ARGV[8] == '' or ARGV[9] ~= last then return {'NEED_TEXT', last, upstream or ''} end
  keep = ARGV[8]
end

-- Time and chance: a counter comes back after a failover that lost writes, and then one id carries two texts.
local created = tonumber(m[5])
local taken = math.max(epoch, last_epoch, now - created) + tonumber(ARGV[3])
local at = int(now - created)
local queue_ms = m[7] or at
attempt = attempt + 1
local seq = last_seq
if attempt > 1 then
  seq = seq + 1
  add(taken, seq, 'x@' .. at,
    '{"attempt":' .. int(attempt) .. ',"keep":' .. keep .. ',"reason":' .. cjson.encode(why) .. '}')
end
seq = seq + 1
add(taken, seq, 's@' .. at, '{"attempt":' .. int(attempt) .. ',"provider":' .. cjson.encode(m[10]) ..
  ',"model":' .. cjson.encode(m[11]) .. ',"queue_ms":' .. queue_ms .. '}')

redis.call('HSET', KEYS[1], 'status', next_status, 'epoch', int(taken), 'attempt', int(attempt),
  'crashes', int(crashes), 'queue_ms', queue_ms)
redis.call('HDEL', KEYS[1], 'why')
note_upstream(KEYS[1], ARGV[11])
if ARGV[7] ~= '' then redis.call('HSET', KEYS[1], 'usage', ARGV[7]) end
redis.call('SET', KEYS[3], ARGV[2] .. ':' .. int(taken), 'PX', ARGV[4])
wake(taken, seq)
local answer = remember(ARGV[1], {'OK', int(taken), int(seq), int(attempt), at})
answer[6] = redis.call('HGETALL', KEYS[1])
return answer
