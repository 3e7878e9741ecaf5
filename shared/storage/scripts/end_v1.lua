-- end_v1: somebody who does not own the running epoch ends the job: cancel, deadline, reaper. It takes a new epoch,
-- so a silent, gone or wedged worker cannot stand in the way and cannot write after it.
-- ARGV: 1 operation token, 2 random 1..999999, 3 act, 4 epoch that must still run ('' = any), 5 '1' = only where
--       nobody holds the lease, 6 the event's letter, 7 head of its JSON (`"code":…` or `"reason":…`, no braces),
--       8 prefix of the workers' channels
-- Answers {OK, epoch, seq}, {ENDED, status}, {MOVED}, {BUSY} or {GONE}.
local before = done_before(ARGV[1])
if before then return before end

local m = redis.call('HMGET', KEYS[1], 'status', 'epoch', 'attempt', 'created_ms', 'queue_ms', 'ttft_ms', 'usage')
local status, epoch = m[1], tonumber(m[2])
if not status then return {'GONE'} end
local next_status = TRANSITIONS[status][ARGV[3]]
if not next_status then return {'ENDED', status} end
if ARGV[4] ~= '' and tonumber(ARGV[4]) ~= epoch then return {'MOVED'} end
local lease = redis.call('GET', KEYS[3])
if ARGV[5] == '1' and lease then return {'BUSY'} end

local now = now_ms()
local at = int(now - tonumber(m[4]))
local timings = ''
if m[5] then timings = timings .. '"queue_ms":' .. m[5] .. ',' end
if m[6] then timings = timings .. '"ttft_ms":' .. m[6] .. ',' end
local terminal = '{' .. ARGV[7] .. ',"attempt":' .. m[3] .. ',"timings":{' .. timings .. '"latency_ms":' .. at ..
  '},"usage":' .. m[7] .. '}'

-- Without a log (lost with its server's disk) the terminal event starts one, so that a reader still gets its end.
local last_epoch, last_seq = last_id(KEYS[2])
local taken = math.max(epoch, last_epoch or 0, now - tonumber(m[4])) + tonumber(ARGV[2])
local seq = (last_seq or 0) + 1
add(taken, seq, ARGV[6] .. '@' .. at, terminal)
redis.call('HSET', KEYS[1], 'epoch', int(taken))
close(next_status, terminal, m[7], now)
wake(taken, seq)
if lease then redis.call('PUBLISH', ARGV[8] .. string.match(lease, '^(.*):%d+$'), KEYS[1]) end
return remember(ARGV[1], {'OK', int(taken), int(seq)})
