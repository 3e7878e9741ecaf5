-- finish_v1: the owner of an epoch appends its last batch, whose last entry is the terminal event, and closes the job.
-- ARGV: 1 epoch, 2 first seq, 3 count, 4 ttft ms or '', 5 act, 6 terminal JSON, 7 usage JSON, 8… field, value pairs
-- Answers {verdict, last seq}: OK, FENCED, GAP, STALE, GONE, ENDED. Idempotent by its ids.
local epoch, first, count = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local verdict, last_seq = compare(KEYS[2], epoch, first, count)
if verdict == 'REPEAT' then return {'OK', int(last_seq)} end
if verdict ~= 'APPEND' then return {verdict, int(last_seq)} end
local status = redis.call('HGET', KEYS[1], 'status')
if not status then return {'GONE', int(last_seq)} end
local next_status = TRANSITIONS[status][ARGV[5]]
if not next_status then return {'ENDED', int(last_seq)} end
add_pairs(epoch, first, count, 8)
note_first_content(KEYS[1], ARGV[4])
close(next_status, ARGV[6], ARGV[7], now_ms())
wake(epoch, first + count - 1)
return {'OK', int(first + count - 1)}
