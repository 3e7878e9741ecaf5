-- append_v2: compare-and-append of batches, each by the owner of another job's epoch. Idempotent by their ids. It reads
-- and writes as append_v1 did; only there are many jobs in a call, which saves the server half of what a call costs.
-- KEYS: meta and log of each job.
-- ARGV: for each job in turn: epoch, first seq, count, ttft ms of the first content event in it or '', upstream that
--       covers all of it ('' = as it was, '-' = lost), then field, value of each entry. A batch of none notes that.
-- Answers {verdict, last seq, …} of each job in turn: OK, FENCED, GAP, STALE, GONE (lib.lua, compare), ENDED.
local answers, at = {}, 1

local function append(meta, log, epoch, first, count)
  -- The usual case first, without taking ids apart: this is the hottest path of all. (Lua writes whole numbers below
  -- 10^14 as they are, and no log has that many entries.)
  local tail = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
  if not tail or tail[1] ~= epoch .. '-' .. (first - 1) then
    local verdict, last_seq = compare(log, tonumber(epoch), first, count)
    if verdict == 'REPEAT' then
      if last_seq == first + count - 1 then note_upstream(meta, ARGV[at + 4]) end
      return 'OK', last_seq
    end
    if verdict ~= 'APPEND' then return verdict, last_seq end
  end
  if redis.call('HEXISTS', meta, 'terminal') == 1 then return 'ENDED', first - 1 end
  for i = 0, count - 1 do
    redis.call('XADD', log, epoch .. '-' .. (first + i), ARGV[at + 5 + 2 * i], ARGV[at + 6 + 2 * i])
  end
  local last = first + count - 1
  note_first_content(meta, ARGV[at + 3])
  note_upstream(meta, ARGV[at + 4])
  if count > 0 then redis.call('PUBLISH', log .. ':n', epoch .. '-' .. last) end
  return 'OK', last
end

for key = 1, #KEYS, 2 do
  local count = tonumber(ARGV[at + 2])
  answers[key], answers[key + 1] = append(KEYS[key], KEYS[key + 1], ARGV[at], tonumber(ARGV[at + 1]), count)
  at = at + 5 + 2 * count
end
return answers
