-- Recovery is done: stores the run id whose connections may admit orders again.
--
-- KEYS  1 campaign
-- ARGV  1 run id of the connection on which recovery compared  2 campaign id  3 channel of changes
-- Returns a code
-- Codes:
--    0 ALREADY_OPEN
--    1 OPENED
--  -21 UNKNOWN_CAMPAIGN
local ALREADY_OPEN, OPENED, UNKNOWN_CAMPAIGN = 0, 1, -21

local run_id = redis.call('HGET', KEYS[1], 'run_id')
if not run_id then return UNKNOWN_CAMPAIGN end
if run_id == ARGV[1] then return ALREADY_OPEN end
redis.call('HSET', KEYS[1], 'run_id', ARGV[1])
redis.call('PUBLISH', ARGV[3], ARGV[2])
return OPENED
