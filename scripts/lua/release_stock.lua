-- Gives the units of one hold back, once, however often it is asked.
--
-- KEYS  1 campaign  2 stock  3 buyer record  4 outbox, for the log of a lottery
-- ARGV  1 run id of the caller's connection  2 order (32 hex)  3 hold number  4 campaign id  5 channel of changes
-- Returns a code; the stock's epoch rises with RELEASED, so that sold-out flags reopen.
-- Codes:
--    1 RELEASED
--    2 ALREADY_RELEASED
--   -1 NO_SUCH_HOLD
--   -9 UNKNOWN_SKU
--  -11 CORRUPT_RECORD
--  -20 FENCED
--  -21 UNKNOWN_CAMPAIGN
local RELEASED, ALREADY_RELEASED, NO_SUCH_HOLD, UNKNOWN_SKU, CORRUPT_RECORD = 1, 2, -1, -9, -11
local FENCED, UNKNOWN_CAMPAIGN = -20, -21

--@include stock_line
--@include buyer_record
--@include draw_log

local run_id = redis.call('HGET', KEYS[1], 'run_id')
if not run_id then return UNKNOWN_CAMPAIGN end
if run_id ~= ARGV[1] then return FENCED end
local record = read_buyer_record(redis.call('GET', KEYS[3]))
if not record then return CORRUPT_RECORD end
local attempt = find_attempt(record, ARGV[2])
local hold_no = tonumber(ARGV[3])
if not attempt or attempt[HOLD_NO] < hold_no then return NO_SUCH_HOLD end
if attempt[HOLD_NO] > hold_no or not is_held(attempt) then return ALREADY_RELEASED end
local s = read_stock_line(redis.call('HGET', KEYS[2], attempt[SKU]))
if not s then return UNKNOWN_SKU end

log_move(KEYS[1], KEYS[4], 'release ' .. attempt[QUANTITY] .. ' ' .. attempt[SKU] .. ' ' .. ARGV[2])
attempt[HELD] = 0
s.remaining, s.returned, s.epoch = s.remaining + attempt[QUANTITY], s.returned + attempt[QUANTITY], s.epoch + 1
redis.call('HSET', KEYS[2], attempt[SKU], write_stock_line(s))
redis.call('SET', KEYS[3], cmsgpack.pack(record))
redis.call('PUBLISH', ARGV[5], ARGV[4])
return RELEASED
