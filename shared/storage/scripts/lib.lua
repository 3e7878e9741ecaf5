-- What every script shares. The loader puts this in front of each, after the constants that it generates from
-- shared/jobs.py (TRANSITIONS) and shared/storage/keys.py (times in ms).
-- KEYS, in this order: 1 meta, 2 log, 3 lease, 4 ops, 5 tombstone. Only append_v2 takes those of many jobs, and fewer.
-- The scripts of the tenants' turns, of the control store, take 1 turns, 2 taken, 3 arq's queue, 4 wake list.

local function now_ms()
  local t = redis.call('TIME')
  return tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
end

local function int(n)
  return string.format('%.0f', n)
end

-- The epoch and seq of the log's last entry; nil where there is no log.
local function last_id(log)
  local entry = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
  if not entry then return nil, nil end
  local epoch, seq = string.match(entry[1], '^(%d+)-(%d+)$')
  return tonumber(epoch), tonumber(seq)
end

local function add(epoch, seq, field, value)
  redis.call('XADD', KEYS[2], int(epoch) .. '-' .. int(seq), field, value)
end

-- A notice only wakes: readers read the log itself, from their own cursors.
local function wake(epoch, seq)
  redis.call('PUBLISH', KEYS[2] .. ':n', int(epoch) .. '-' .. int(seq))
end

-- An operation that was done before answers as it did then: a lost reply costs no lease, no attempt, no crash.
local function done_before(token)
  local result = redis.call('HGET', KEYS[4], token)
  return result and cjson.decode(result)
end

local function remember(token, result)
  redis.call('HSET', KEYS[4], token, cjson.encode(result))
  if redis.call('PTTL', KEYS[4]) < 0 then
    local m = redis.call('HMGET', KEYS[1], 'live_until_ms', 'finished_ms')
    redis.call('PEXPIREAT', KEYS[4], m[1] and not m[2] and m[1] or int(now_ms() + OPS_MS))
  end
  return result
end

-- Where this batch stands against the log. APPEND: it fits. REPEAT: it is there already (a retry after a lost reply).
-- FENCED: somebody took the job over. GAP: a failover lost my tail, its last seq follows. STALE: it lost my claim.
local function compare(log, epoch, first_seq, count)
  local last_epoch, last_seq = last_id(log)
  if not last_epoch then return 'GONE', 0 end
  if last_epoch > epoch then return 'FENCED', last_seq end
  if last_epoch < epoch then return 'STALE', last_seq end
  if last_seq == first_seq - 1 then return 'APPEND', last_seq end
  if last_seq >= first_seq + count - 1 then return 'REPEAT', last_seq end
  return 'GAP', last_seq
end

local function add_pairs(epoch, first_seq, count, offset)
  for i = 0, count - 1 do
    add(epoch, first_seq + i, ARGV[offset + 2 * i], ARGV[offset + 2 * i + 1])
  end
end

-- Time to first token is that of the first content event a reader ever saw.
local function note_first_content(meta, ttft_ms)
  if ttft_ms ~= '' then redis.call('HSETNX', meta, 'ttft_ms', ttft_ms) end
end

-- What the provider knows this generation by, and how far the log has followed it: stored with what it covers, so that
-- a successor asks for exactly what the log lacks. '' = as it was, '-' = there is none any more.
local function note_upstream(meta, upstream)
  if upstream == '-' then
    redis.call('HDEL', meta, 'upstream')
  elseif upstream ~= '' then
    redis.call('HSET', meta, 'upstream', upstream)
  end
end

-- The job is over: state, lease and key lives in one place. `terminal` is the event's JSON.
local function close(status, terminal, usage, now)
  local ttl = tonumber(redis.call('HGET', KEYS[1], 'ttl_ms'))
  redis.call('HSET', KEYS[1], 'status', status, 'terminal', terminal, 'usage', usage,
    'finished_ms', int(now), 'expires_ms', int(now + ttl))
  redis.call('DEL', KEYS[3])
  redis.call('PEXPIRE', KEYS[1], int(ttl))
  redis.call('PEXPIRE', KEYS[2], int(ttl))
  redis.call('PEXPIRE', KEYS[4], int(OPS_MS))
  redis.call('PEXPIRE', KEYS[5], int(ttl + TOMBSTONE_MS))
end

local function tenant_of(offer)
  return string.match(offer, '^([%w_-]+)/')
end

-- An offer waits among its tenant's, at the place that arq's queue has it at. False where arq's queue has it no more: it
-- was claimed or withdrawn, or is the reaper's to make again.
local function line_up(offer)
  local score, tenant = redis.call('ZSCORE', KEYS[3], offer), tenant_of(offer)
  if not score or not tenant then return false end
  local waiting = WAITING_PREFIX .. tenant
  redis.call('ZADD', waiting, 'NX', score, offer)
  redis.call('PEXPIRE', waiting, WAITING_MS)
  redis.call('ZADD', KEYS[1], 'NX', 0, tenant)
  redis.call('PEXPIRE', KEYS[1], WAITING_MS)
  return true
end

-- One bell is enough: who hears it takes all that it has slots for, and looks again.
local function ring_bell(name)
  if redis.call('EXISTS', KEYS[4]) == 0 then
    redis.call('LPUSH', KEYS[4], name)
    redis.call('PEXPIRE', KEYS[4], WAKE_MS)
  end
end
