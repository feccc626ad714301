-- Moves a campaign's state by compare-and-set.
--
-- KEYS  1 campaign
-- ARGV  1 campaign id  2 the new state  3 channel of changes  4.. the states it may come from
-- Returns {code, the state before}
-- Codes:
--    0 UNCHANGED
--    1 MOVED
--   -1 NOT_POSSIBLE
--  -21 UNKNOWN_CAMPAIGN
local UNCHANGED, MOVED, NOT_POSSIBLE, UNKNOWN_CAMPAIGN = 0, 1, -1, -21

local state = redis.call('HGET', KEYS[1], 'state')
if not state then return {UNKNOWN_CAMPAIGN, ''} end
if state == ARGV[2] then return {UNCHANGED, state} end
for i = 4, #ARGV do
  if ARGV[i] == state then
    redis.call('HSET', KEYS[1], 'state', ARGV[2])
    redis.call('PUBLISH', ARGV[3], ARGV[1])
    return {MOVED, state}
  end
end
return {NOT_POSSIBLE, state}
