-- One order of one buyer: seen before? enough stock? Then take the units, remember the order, and append it to the log.
-- Both peers with Redis call it once a request.
--
-- KEYS  1 stock of the SKU (a number)  2 the buyer's order under this Idempotency-Key  3 the log (a stream)
-- ARGV  1 order id to give  2 user  3 SKU  4 quantity, a whole number of at least 1
-- Returns {1, order id} accepted, {2, order id} seen before, {0, ''} sold out.
local known = redis.call('GET', KEYS[2])
if known then return {2, known} end
local quantity = tonumber(ARGV[4])
if tonumber(redis.call('GET', KEYS[1]) or '0') < quantity then return {0, ''} end
redis.call('DECRBY', KEYS[1], quantity)
redis.call('SET', KEYS[2], ARGV[1])
redis.call('XADD', KEYS[3], '*', 'order_id', ARGV[1], 'user', ARGV[2], 'sku', ARGV[3], 'quantity', ARGV[4])
return {1, ARGV[1]}
