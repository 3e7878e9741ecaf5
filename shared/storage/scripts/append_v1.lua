-- append_v1: compare-and-append of a batch by the owner of an epoch. Idempotent by its ids.
-- ARGV: 1 epoch, 2 first seq, 3 count, 4 ttft ms of the first content event in it or '', 5 upstream that covers
--       all of it ('' = as it was, '-' = lost), 6… field, value of each entry. A batch of none notes the upstream.
-- Answers {verdict, last seq}: OK, FENCED, GAP, STALE, GONE (lib.lua, compare), ENDED.
local epoch, first, count = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local log, last = KEYS[2], tostring(first + count - 1)
-- The usual case first, without taking ids apart: this is the hottest path of all. (Lua writes whole numbers below 10^14
-- as they are, and no log has that many entries.)
local before = epoch .. '-' .. (first - 1)
local tail = redis.call('XRANGE', log, before, '+', 'COUNT', 2)
if #tail ~= 1 or tail[1][1] ~= before then
  local verdict, last_seq = compare(tonumber(epoch), first, count)
  if verdict == 'REPEAT' then
    if last_seq == first + count - 1 then note_upstream(ARGV[5]) end
    return {'OK', int(last_seq)}
  end
  if verdict ~= 'APPEND' then return {verdict, int(last_seq)} end
end
if redis.call('HEXISTS', KEYS[1], 'terminal') == 1 then return {'ENDED', int(first - 1)} end
for i = 0, count - 1 do
  redis.call('XADD', log, epoch .. '-' .. (first + i), ARGV[6 + 2 * i], ARGV[7 + 2 * i])
end
if ARGV[4] ~= '' then note_first_content(ARGV[4]) end
if ARGV[5] ~= '' then note_upstream(ARGV[5]) end
if count > 0 then redis.call('PUBLISH', log .. ':n', epoch .. '-' .. last) end
return {'OK', last}
