-- Recovery is done: stores the run id whose connections may admit orders again.
--
-- KEYS  1 campaign
-- ARGV  1 run id on which recovery compared  2 campaign id  3 channel of changes  4 run id of the caller's connection
-- Returns a code
-- Codes:
--    0 ALREADY_OPEN
--    1 OPENED
--  -20 FENCED
--  -21 UNKNOWN_CAMPAIGN
local ALREADY_OPEN, OPENED, FENCED, UNKNOWN_CAMPAIGN = 0, 1, -20, -21

if ARGV[1] ~= ARGV[4] then return FENCED end
local run_id = redis.call('HGET', KEYS[1], 'run_id')
if not run_id then return UNKNOWN_CAMPAIGN end
if run_id == ARGV[1] then return ALREADY_OPEN end
redis.call('HSET', KEYS[1], 'run_id', ARGV[1])
redis.call('PUBLISH', ARGV[3], ARGV[2])
return OPENED
