-- Takes what a closed campaign has not sold out of its stock, for the warehouse. Units may come back to it later (an
-- order expires): then it is asked again. What is told is everything ever withdrawn, so that an answer that is lost,
-- told twice or told late does no harm: the catalog frees what it does not know of yet.
--
-- KEYS  1 campaign  2 stock  3 units withdrawn  4 outbox, for the log of a lottery
-- ARGV  1 run id of the caller's connection  2 campaign id  3 channel of changes
-- Returns {code, sku at fault, {sku, units withdrawn in all, …}}
-- Codes:
--    1 WITHDRAWN
--    2 NOTHING_LEFT
--   -1 NOT_CLOSED
--   -3 CORRUPT_STOCK
--  -20 FENCED
--  -21 UNKNOWN_CAMPAIGN
local WITHDRAWN, NOTHING_LEFT, NOT_CLOSED, CORRUPT_STOCK = 1, 2, -1, -3
local FENCED, UNKNOWN_CAMPAIGN = -20, -21

--@include stock_line
--@include draw_log

local run_id = redis.call('HGET', KEYS[1], 'run_id')
if not run_id then return {UNKNOWN_CAMPAIGN, '', {}} end
-- While recovery has not compared, what seems unsold may be sold.
if run_id ~= ARGV[1] then return {FENCED, '', {}} end
if redis.call('HGET', KEYS[1], 'state') ~= 'closed' then return {NOT_CLOSED, '', {}} end
local stock, lines = redis.call('HGETALL', KEYS[2]), {}
redis.call('HLEN', KEYS[3])
for i = 1, #stock, 2 do
  local s = read_stock_line(stock[i + 1])
  if not s then return {CORRUPT_STOCK, stock[i], {}} end
  if s.remaining > 0 then
    local in_all = string.format('%.0f', tonumber(redis.call('HGET', KEYS[3], stock[i]) or 0) + s.remaining)
    table.insert(lines, {stock[i], s, in_all})
  end
end

for _, one in ipairs(lines) do
  log_move(KEYS[1], KEYS[4], string.format('withdraw %.0f %s %s', one[2].remaining, one[1], one[3]))
end
for _, one in ipairs(lines) do
  local id, s = one[1], one[2]
  redis.call('HSET', KEYS[3], id, one[3])
  s.allocated, s.remaining = s.allocated - s.remaining, 0
  redis.call('HSET', KEYS[2], id, write_stock_line(s))
end
if #lines > 0 then redis.call('PUBLISH', ARGV[3], ARGV[2]) end
return {#lines > 0 and WITHDRAWN or NOTHING_LEFT, '', redis.call('HGETALL', KEYS[3])}
