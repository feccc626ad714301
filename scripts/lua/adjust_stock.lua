-- Recovery: brings a campaign to what the catalog has of it, in a Redis that has gone back to an older state, while the
-- gate is closed. All or nothing, and only if nothing has moved since recovery looked. What is sold is never touched.
--
-- KEYS  1 campaign  2 stock  3 stock as the file had it  4 units withdrawn  5 top-ups already made
-- ARGV  1 run id of the caller's connection  2 run id on which recovery compared  3 campaign id  4 channel of changes
--       5 number of the last load, as recovery saw it
--       6 MessagePack array of {sku, allocated and sold as recovery saw them (-1: no such SKU), allocated, stock in the
--         file, withdrawn, per_user, price_cents}
--       7 MessagePack array of pairs {field, value} of the campaign hash
--       8 MessagePack array of pairs {key, SKU and units} of top-ups
-- Returns {code, sku at fault}
-- Codes:
--    0 ALREADY_OPEN
--    1 ADJUSTED
--   -1 MOVED
--   -3 CORRUPT_STOCK
--  -20 FENCED
--  -21 UNKNOWN_CAMPAIGN
local ALREADY_OPEN, ADJUSTED, MOVED, CORRUPT_STOCK = 0, 1, -1, -3
local FENCED, UNKNOWN_CAMPAIGN = -20, -21

--@include stock_line

if ARGV[1] ~= ARGV[2] then return {FENCED, ''} end
local run_id = redis.call('HGET', KEYS[1], 'run_id')
if not run_id then return {UNKNOWN_CAMPAIGN, ''} end
if run_id == ARGV[2] then return {ALREADY_OPEN, ''} end
-- A load may raise stock while the gate is closed; nothing else moves it.
if (redis.call('HGET', KEYS[1], 'load_no') or '0') ~= ARGV[5] then return {MOVED, ''} end
for i = 3, 5 do redis.call('HLEN', KEYS[i]) end
local skus, lines = cmsgpack.unpack(ARGV[6]), {}
for i, sku in ipairs(skus) do
  local line = redis.call('HGET', KEYS[2], sku[1])
  local s = {remaining = 0, taken = 0, returned = 0, allocated = -1, epoch = 0, per_user = 0, price = 0}
  if line then s = read_stock_line(line) end
  if not s then return {CORRUPT_STOCK, sku[1]} end
  local sold = line and s.taken - s.returned or -1
  if s.allocated ~= sku[2] or sold ~= sku[3] then return {MOVED, sku[1]} end
  if sku[4] > s.allocated then s.epoch = s.epoch + 1 end
  s.allocated, s.remaining = sku[4], sku[4] - math.max(sold, 0)
  s.per_user, s.price = sku[7], sku[8]
  lines[i] = write_stock_line(s)
end

for i, sku in ipairs(skus) do
  redis.call('HSET', KEYS[2], sku[1], lines[i])
  redis.call('HSET', KEYS[3], sku[1], sku[5])
  if sku[6] > 0 then redis.call('HSET', KEYS[4], sku[1], sku[6]) end
end
for _, pair in ipairs(cmsgpack.unpack(ARGV[7])) do redis.call('HSET', KEYS[1], pair[1], pair[2]) end
for _, pair in ipairs(cmsgpack.unpack(ARGV[8])) do redis.call('HSET', KEYS[5], pair[1], pair[2]) end
redis.call('PUBLISH', ARGV[4], ARGV[3])
return {ADJUSTED, ''}
