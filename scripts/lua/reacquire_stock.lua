-- Takes units anew for an order whose hold before was given back, once per hold number. The caller's ledger has the
-- release of the hold before: if that has not come to Redis yet, it is done here, and comes to nothing later. SOLD_OUT
-- is final: the number is used up, so that whoever asks again, or late, is not given what was refused before.
--
-- KEYS  1 campaign  2 stock  3 buyer record  4 outbox, for the log of a lottery
-- ARGV  1 run id of the caller's connection  2 order (32 hex)  3 the new hold number
--       4 run id of the server that recovery compares with, whose gate is closed; empty: the one that it has stored
-- Returns a code
-- Codes:
--    1 TAKEN
--    2 ALREADY_TAKEN
--   -1 SOLD_OUT
--   -2 NO_SUCH_ORDER
--   -3 HOLD_PASSED
--   -9 UNKNOWN_SKU
--  -11 CORRUPT_RECORD
--  -20 FENCED
--  -21 UNKNOWN_CAMPAIGN
local TAKEN, ALREADY_TAKEN, SOLD_OUT, NO_SUCH_ORDER, HOLD_PASSED = 1, 2, -1, -2, -3
local UNKNOWN_SKU, CORRUPT_RECORD, FENCED, UNKNOWN_CAMPAIGN = -9, -11, -20, -21

--@include stock_line
--@include buyer_record
--@include draw_log

local run_id = redis.call('HGET', KEYS[1], 'run_id')
if not run_id then return UNKNOWN_CAMPAIGN end
if ARGV[1] ~= (ARGV[4] == '' and run_id or ARGV[4]) or run_id == ARGV[4] then return FENCED end
local record = read_buyer_record(redis.call('GET', KEYS[3]))
if not record then return CORRUPT_RECORD end
local attempt = find_attempt(record, ARGV[2])
if not attempt then return NO_SUCH_ORDER end
local hold_no = tonumber(ARGV[3])
if attempt[HOLD_NO] > hold_no then return HOLD_PASSED end
if attempt[HOLD_NO] == hold_no then return is_held(attempt) and ALREADY_TAKEN or HOLD_PASSED end
local s = read_stock_line(redis.call('HGET', KEYS[2], attempt[SKU]))
if not s then return UNKNOWN_SKU end

local quantity = attempt[QUANTITY]
if is_held(attempt) then
  s.returned = s.returned + quantity
elseif s.remaining < quantity then
  attempt[HOLD_NO], attempt[HELD] = hold_no, 0
  redis.call('SET', KEYS[3], cmsgpack.pack(record))
  return SOLD_OUT
else
  log_move(KEYS[1], KEYS[4], 'take ' .. quantity .. ' ' .. attempt[SKU] .. ' ' .. ARGV[2])
  s.remaining = s.remaining - quantity
end
s.taken = s.taken + quantity
attempt[HOLD_NO], attempt[HELD] = hold_no, 1
redis.call('HSET', KEYS[2], attempt[SKU], write_stock_line(s))
redis.call('SET', KEYS[3], cmsgpack.pack(record))
return TAKEN
