-- Takes the guard of a fact, or finds that its owner's token has it already: a call whose reply was lost may be repeated.
--
-- KEYS  1 guard
-- ARGV  1 the owner's token  2 how long it is the owner's, ms
-- Returns {code, ms until the guard is free at the latest}
-- Codes:
--    1 TAKEN
--   -1 HELD
local TAKEN, HELD = 1, -1

-- Who asks again is not given more time: he counts from when he first asked.
if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) or redis.call('GET', KEYS[1]) == ARGV[1] then
  return {TAKEN, redis.call('PTTL', KEYS[1])}
end
return {HELD, redis.call('PTTL', KEYS[1])}
