-- defer_v1: an offer that was taken may not be claimed here now: it waits again a little later, at its old place.
-- ARGV: 1 offer, 2 ms
-- Answers {1} or {0} where it was not taken any more.
if not redis.call('ZSCORE', KEYS[2], ARGV[1]) then return {0} end
redis.call('ZADD', KEYS[2], int(now_ms() + tonumber(ARGV[2])), ARGV[1])
return {1}
