-- spend_v1: what jobs of a tenant have used so far, against its tokens of the day. A job's count only rises: whoever
-- tells of it again, or later, adds what is new.
-- KEYS: 1 the tenant's tokens of the day, a hash: job id to tokens, and their `total`
-- ARGV: 1 (ms that it is kept), 2… (job id, tokens) pairs
-- Answers {total}. Idempotent.
for i = 2, #ARGV, 2 do
  local before = tonumber(redis.call('HGET', KEYS[1], ARGV[i]) or '0')
  local more = tonumber(ARGV[i + 1]) - before
  if more > 0 then
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
    redis.call('HINCRBY', KEYS[1], 'total', int(more))
  end
end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return {redis.call('HGET', KEYS[1], 'total') or '0'}
