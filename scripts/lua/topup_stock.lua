-- Adds units to a SKU, once per key, and raises its epoch, so that sold-out flags reopen. A campaign that is closed gets
-- no more; what was added before it was closed stays added.
--
-- KEYS  1 campaign  2 stock  3 top-ups already made  4 outbox, for the log of a lottery
-- ARGV  1 run id of the caller's connection  2 campaign id  3 sku  4 units  5 key of this top-up  6 channel of changes
--       7 units a SKU may have at most  8 run id on which recovery compares, if it makes this one again; else empty
-- Returns {code, units allocated afterwards}
-- Codes:
--    1 ADDED
--    2 ALREADY_ADDED
--   -1 TOO_MANY
--   -2 CLOSED
--   -8 KEY_REUSED
--   -9 UNKNOWN_SKU
--  -10 INVALID_QUANTITY
--  -20 FENCED
--  -21 UNKNOWN_CAMPAIGN
local ADDED, ALREADY_ADDED, TOO_MANY, CLOSED, KEY_REUSED = 1, 2, -1, -2, -8
local UNKNOWN_SKU, INVALID_QUANTITY = -9, -10
local FENCED, UNKNOWN_CAMPAIGN = -20, -21

--@include stock_line
--@include draw_log

local run_id = redis.call('HGET', KEYS[1], 'run_id')
if not run_id then return {UNKNOWN_CAMPAIGN, 0} end
if (ARGV[8] == '' and run_id or ARGV[8]) ~= ARGV[1] then return {FENCED, 0} end
local units = tonumber(ARGV[4])
if not units or units < 1 or units % 1 ~= 0 then return {INVALID_QUANTITY, 0} end
local s = read_stock_line(redis.call('HGET', KEYS[2], ARGV[3]))
if not s then return {UNKNOWN_SKU, 0} end
local what = ARGV[3] .. ' ' .. ARGV[4]
local before = redis.call('HGET', KEYS[3], ARGV[5])
if before then return {before == what and ALREADY_ADDED or KEY_REUSED, s.allocated} end
if redis.call('HGET', KEYS[1], 'state') == 'closed' then return {CLOSED, s.allocated} end
if s.allocated + units > tonumber(ARGV[7]) then return {TOO_MANY, s.allocated} end

s.remaining, s.allocated, s.epoch = s.remaining + units, s.allocated + units, s.epoch + 1
log_move(KEYS[1], KEYS[4], 'topup ' .. ARGV[4] .. ' ' .. ARGV[3] .. ' ' .. ARGV[5])
redis.call('HSET', KEYS[3], ARGV[5], what)
redis.call('HSET', KEYS[2], ARGV[3], write_stock_line(s))
redis.call('PUBLISH', ARGV[6], ARGV[2])
return {ADDED, s.allocated}
