-- Puts an order that MySQL holds back into its buyer's record, once, by a person's decision. Its units are taken from
-- stock, too, where Redis does not count them any more. Nothing is done unless the SKU's numbers are still those on
-- which the decision stands.
--
-- KEYS  1 campaign  2 stock  3 holders  4 buyer record  5 outbox, for the log of a lottery
-- ARGV  1 run id of the caller's connection
--       2 MessagePack array {order (32 hex), fingerprint, sku, quantity, hold number, held: 1, or 2 once it is paid}
--       3 "1": take its units from stock  4 units taken, as decided upon  5 units returned, as decided upon
--       6 the hash of the user, 8 bytes
-- Returns a code
-- Codes:
--    1 RESTORED
--    2 ALREADY_THERE
--   -1 STOCK_SHORT
--   -3 STOCK_MOVED
--   -9 UNKNOWN_SKU
--  -11 CORRUPT_RECORD
--  -20 FENCED
--  -21 UNKNOWN_CAMPAIGN
local RESTORED, ALREADY_THERE, STOCK_SHORT, STOCK_MOVED = 1, 2, -1, -3
local UNKNOWN_SKU, CORRUPT_RECORD, FENCED, UNKNOWN_CAMPAIGN = -9, -11, -20, -21

--@include stock_line
--@include buyer_record
--@include draw_log

local run_id = redis.call('HGET', KEYS[1], 'run_id')
if not run_id then return UNKNOWN_CAMPAIGN end
if run_id ~= ARGV[1] then return FENCED end
local record = read_buyer_record(redis.call('GET', KEYS[4]))
if not record then return CORRUPT_RECORD end
local attempt = cmsgpack.unpack(ARGV[2])
if find_attempt(record, attempt[ORDER]) then return ALREADY_THERE end
local s = read_stock_line(redis.call('HGET', KEYS[2], attempt[SKU]))
if not s then return UNKNOWN_SKU end
if s.taken ~= tonumber(ARGV[4]) or s.returned ~= tonumber(ARGV[5]) then return STOCK_MOVED end
local quantity = ARGV[3] == '1' and attempt[QUANTITY] or 0
if s.remaining < quantity then return STOCK_SHORT end
redis.call('STRLEN', KEYS[3])

if quantity > 0 then
  log_move(KEYS[1], KEYS[5], 'take ' .. quantity .. ' ' .. attempt[SKU] .. ' ' .. attempt[ORDER])
  s.remaining, s.taken = s.remaining - quantity, s.taken + quantity
  redis.call('HSET', KEYS[2], attempt[SKU], write_stock_line(s))
end
table.insert(record[3], attempt)
redis.call('SET', KEYS[4], cmsgpack.pack(record))
redis.call('APPEND', KEYS[3], ARGV[6])
return RESTORED
