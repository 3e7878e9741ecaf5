-- read_v1: somebody reads the job. Noted only where the job is to be cancelled when nobody does.
-- ARGV: none. Answers {OK}. Idempotent by nature.
if redis.call('HEXISTS', KEYS[1], 'unread_ms') == 1 then redis.call('HSET', KEYS[1], 'read_ms', int(now_ms())) end
return {'OK'}
