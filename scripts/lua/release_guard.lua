-- Releases the guard of a fact, if it is the owner's who asks: his own may have run out, and be another's by now.
--
-- KEYS  1 guard
-- ARGV  1 the owner's token
-- Returns code
-- Codes:
--    1 RELEASED
--   -1 NOT_OWNER
local RELEASED, NOT_OWNER = 1, -1

if redis.call('GET', KEYS[1]) ~= ARGV[1] then return NOT_OWNER end
redis.call('DEL', KEYS[1])
return RELEASED
