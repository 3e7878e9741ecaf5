-- ring_v1: arq delivers an offer. It lines up, if it does not wait already or is with a worker that has yet to claim it,
-- and a bell is rung: one by an older process stands in arq's queue alone.
-- ARGV: 1 offer
-- Answers {1} while the offer stands, so that arq keeps it, or {0}.
if redis.call('ZSCORE', KEYS[2], ARGV[1]) then return {1} end
if not line_up(ARGV[1]) then return {0} end
ring_bell(ARGV[1])
return {1}
