-- Gives back what was deducted a second time for an order, once per origin. The buyer's record says nothing of the
-- second deduction, or it is the second one's own, made anew after the first had gone: then it may say that the order
-- holds units although the ledger has the release of its hold.
--
-- KEYS  1 campaign  2 stock  3 buyer record  4 duplicates given back  5 outbox, for the log of a lottery
-- ARGV  1 run id of the caller's connection  2 order (32 hex)  3 origin of the second deduction  4 sku  5 quantity
--       6 the hold whose release the ledger has, 0 for none  7 campaign id  8 channel of changes
-- Returns a code; the stock's epoch rises with RETURNED, so that sold-out flags reopen.
-- Codes:
--    1 RETURNED
--    2 ALREADY_RETURNED
--   -9 UNKNOWN_SKU
--  -11 CORRUPT_RECORD
--  -20 FENCED
--  -21 UNKNOWN_CAMPAIGN
local RETURNED, ALREADY_RETURNED, UNKNOWN_SKU, CORRUPT_RECORD = 1, 2, -9, -11
local FENCED, UNKNOWN_CAMPAIGN = -20, -21

--@include stock_line
--@include buyer_record
--@include draw_log

local run_id = redis.call('HGET', KEYS[1], 'run_id')
if not run_id then return UNKNOWN_CAMPAIGN end
if run_id ~= ARGV[1] then return FENCED end
local mark = ARGV[2] .. ' ' .. ARGV[3]
if redis.call('HEXISTS', KEYS[4], mark) == 1 then return ALREADY_RETURNED end
local record = read_buyer_record(redis.call('GET', KEYS[3]))
if not record then return CORRUPT_RECORD end
local s = read_stock_line(redis.call('HGET', KEYS[2], ARGV[4]))
if not s then return UNKNOWN_SKU end
local quantity, attempt = tonumber(ARGV[5]), find_attempt(record, ARGV[2])

s.remaining, s.returned, s.epoch = s.remaining + quantity, s.returned + quantity, s.epoch + 1
log_move(KEYS[1], KEYS[5], 'return ' .. quantity .. ' ' .. ARGV[4] .. ' ' .. mark)
redis.call('HSET', KEYS[4], mark, quantity)
redis.call('HSET', KEYS[2], ARGV[4], write_stock_line(s))
if attempt and is_held(attempt) and attempt[HOLD_NO] <= tonumber(ARGV[6]) then
  attempt[HELD] = 0
  redis.call('SET', KEYS[3], cmsgpack.pack(record))
end
redis.call('PUBLISH', ARGV[8], ARGV[7])
return RETURNED
