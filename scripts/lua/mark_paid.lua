-- Notes in the buyer's record that an order is paid, so that it does not count as unpaid any more. Stock is untouched.
--
-- KEYS  1 campaign  2 buyer record
-- ARGV  1 run id of the caller's connection  2 order (32 hex)  3 hold number
-- Returns a code
-- Codes:
--    1 MARKED
--    2 ALREADY_MARKED
--   -1 NO_SUCH_HOLD
--  -11 CORRUPT_RECORD
--  -20 FENCED
--  -21 UNKNOWN_CAMPAIGN
local MARKED, ALREADY_MARKED, NO_SUCH_HOLD, CORRUPT_RECORD = 1, 2, -1, -11
local FENCED, UNKNOWN_CAMPAIGN = -20, -21

--@include buyer_record

local run_id = redis.call('HGET', KEYS[1], 'run_id')
if not run_id then return UNKNOWN_CAMPAIGN end
if run_id ~= ARGV[1] then return FENCED end
local record = read_buyer_record(redis.call('GET', KEYS[2]))
if not record then return CORRUPT_RECORD end
local attempt = find_attempt(record, ARGV[2])
if not attempt or attempt[HOLD_NO] ~= tonumber(ARGV[3]) or not is_held(attempt) then return NO_SUCH_HOLD end
if attempt[HELD] == HELD_PAID then return ALREADY_MARKED end

attempt[HELD] = HELD_PAID
redis.call('SET', KEYS[2], cmsgpack.pack(record))
return MARKED
