-- take_v1: a worker with free slots gets the offers that come next: of the tenants with a free seat the one whose last
-- turn is longest ago, and of its offers the one of the highest priority, of these that of the oldest job. Who is new
-- stands at 0, so before all others, and each that has had a turn behind them.
-- ARGV: 1 how many, 2 ms for which what is taken is its taker's, 3 ms of a seat, 4 seats of a tenant (0 = any number),
--       5… `tenant, seats` of those with another number
-- Answers {1 if somebody waits for a seat or 0, [offer, …], [offer that got a seat, …]}
local now = now_ms()
local wanted, default = tonumber(ARGV[1]), tonumber(ARGV[4])
local seats = {}
for i = 5, #ARGV, 2 do seats[ARGV[i]] = tonumber(ARGV[i + 1]) end

-- Taken and not claimed in time: its worker has died on the way, or put it off.
local lapsed = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', int(now), 'LIMIT', 0, 100)
for i = 1, #lapsed do
  redis.call('ZREM', KEYS[2], lapsed[i])
  line_up(lapsed[i])
end

-- How many seats of a limited tenant are free, counted once; what nobody has renewed is free again.
local free = {}
local function count_free(tenant, limit)
  if not free[tenant] then
    free[tenant] = limit - redis.call('ZCOUNT', RUNNING_PREFIX .. tenant, '(' .. int(now), '+inf')
  end
  return free[tenant]
end

local last = redis.call('ZRANGE', KEYS[1], -1, -1, 'WITHSCORES')
local turn = tonumber(last[2] or 0)
local rank, held, offers, seated = 0, 0, {}, {}
-- Tenants are read by pages, each larger than the last, for a thousand may wait for a seat before one that has it: what
-- was passed over keeps its place, at the front, and whoever had a turn or left is not there any more.
local page, at, size = {}, 0, wanted
while #offers < wanted do
  at = at + 1
  if at > #page then
    page, at, size = redis.call('ZRANGE', KEYS[1], rank, rank + size - 1), 1, math.min(200, 2 * size)
  end
  local tenant = page[at]
  if not tenant then break end
  local limit = seats[tenant] or default
  local full = limit > 0 and count_free(tenant, limit) < 1
  if full and held == 1 then
    rank = rank + 1
  elseif redis.call('EXISTS', WAITING_PREFIX .. tenant) == 0 then
    -- Nothing waits, and all others have had their turn since: coming again, it may as well be new.
    redis.call('ZREM', KEYS[1], tenant)
  elseif full then
    held = 1
    rank = rank + 1
  else
    local offer = redis.call('ZPOPMIN', WAITING_PREFIX .. tenant)[1]
    offers[#offers + 1] = offer
    redis.call('ZADD', KEYS[2], int(now + tonumber(ARGV[2])), offer)
    if limit > 0 then
      redis.call('ZREMRANGEBYSCORE', RUNNING_PREFIX .. tenant, '-inf', int(now))
      redis.call('ZADD', RUNNING_PREFIX .. tenant, int(now + tonumber(ARGV[3])), offer)
      redis.call('PEXPIRE', RUNNING_PREFIX .. tenant, ARGV[3])
      free[tenant] = free[tenant] - 1
      seated[#seated + 1] = offer
    end
    turn = turn + 1
    redis.call('ZADD', KEYS[1], int(turn), tenant)
  end
end
if #offers > 0 then redis.call('PEXPIRE', KEYS[2], 60000) end
-- Nothing is left that a slot could be had for, so there is nothing to ring for.
if #offers < wanted then redis.call('DEL', KEYS[4]) end
return {held, offers, seated}
