-- append_v1: compare-and-append of a batch by the owner of an epoch. Idempotent by its ids.
-- ARGV: 1 epoch, 2 first seq, 3 count, 4 ttft ms of the first content event in it or '', 5 upstream that covers
--       all of it ('' = as it was, '-' = lost), 6… field, value of each entry. A batch of none notes the upstream.
-- Answers {verdict, last seq}: OK, FENCED, GAP, STALE, GONE (lib.lua, compare), ENDED.
local epoch, first, count = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local verdict, last_seq = compare(epoch, first, count)
if verdict == 'REPEAT' then
  if last_seq == first + count - 1 then note_upstream(ARGV[5]) end
  return {'OK', int(last_seq)}
end
if verdict ~= 'APPEND' then return {verdict, int(last_seq)} end
if redis.call('HEXISTS', KEYS[1], 'terminal') == 1 then return {'ENDED', int(last_seq)} end
add_pairs(epoch, first, count, 6)
note_first_content(ARGV[4])
note_upstream(ARGV[5])
if count > 0 then wake(epoch, first + count - 1) end
return {'OK', int(first + count - 1)}
