-- compact_v1: the next part of a finished log's compact form (shared/storage/merged.py). With the last part this form takes
-- the log's place at once: no reader sees half of it.
-- KEYS: beside those of the job, 6 the compact form.
-- ARGV: 1 id that the form ends with so far ('' = begin anew), 2 '' where more parts follow, else how many entries the log
--       had when it was read, 3 its first id, 4 last id of this part, 5… id, field, value of each entry
-- Answers {OK}, {CHANGED} (the log, or the form so far, is not what the caller takes it for), {OPEN} or {GONE}. Repeated
-- it harms nothing, and may answer CHANGED.
if redis.call('EXISTS', KEYS[1], KEYS[2]) < 2 or redis.call('GET', KEYS[5]) == 'deleted' then
  redis.call('UNLINK', KEYS[6])
  return {'GONE'}
end
if redis.call('HEXISTS', KEYS[1], 'terminal') == 0 then return {'OPEN'} end

local function id_at(key, command, from, to)
  local entry = redis.call(command, key, from, to, 'COUNT', 1)[1]
  return entry and entry[1] or ''
end

-- Two workers may be at it. Whatever both have written, a form that ends with my last id holds the log up to there.
if ARGV[1] == '' then
  redis.call('UNLINK', KEYS[6])
elseif id_at(KEYS[6], 'XREVRANGE', '+', '-') ~= ARGV[1] then
  return {'CHANGED'}
end
for i = 5, #ARGV, 3 do
  redis.call('XADD', KEYS[6], ARGV[i], ARGV[i + 1], ARGV[i + 2])
end
redis.call('PEXPIRE', KEYS[6], int(COMPACT_FORM_MS))
if ARGV[2] == '' then return {'OK'} end

local ends_at = redis.call('PEXPIRETIME', KEYS[2])
if redis.call('XLEN', KEYS[2]) ~= tonumber(ARGV[2]) or id_at(KEYS[2], 'XRANGE', '-', '+') ~= ARGV[3]
  or id_at(KEYS[2], 'XREVRANGE', '+', '-') ~= ARGV[4] or ends_at < 0 then
  redis.call('UNLINK', KEYS[6])
  return {'CHANGED'}
end
-- A copy and not the form itself: a stream that grew keeps the room of a whole node at its end, up to 4 KB.
-- In one command: a script that is refused its second one (an ACL, a renamed command) keeps what its first one did.
redis.call('COPY', KEYS[6], KEYS[2], 'REPLACE')
redis.call('PEXPIREAT', KEYS[2], int(ends_at))
redis.call('UNLINK', KEYS[6])
return {'OK'}
