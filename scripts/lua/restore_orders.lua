-- Recovery: puts orders that Kafka or MySQL hold back into a Redis that has lost them, while the gate is closed.
-- An order that is known here is left alone, so that it may be asked again.
--
-- KEYS  1 campaign  2 stock  3 outbox  4 holders  5.. the buyer record of each order
-- ARGV  1 MessagePack array of {order, fingerprint, sku, quantity, hold number, held 1 or 0}
--       2 the highest outbox id of all that is lost, with the last piece; 0-0 with those before it, so that a recovery
--         that breaks off begins again  3 the hashes of the orders' users, 8 bytes each
--       4 run id of the caller's connection  5 run id on which recovery compares
-- Returns {code, orders restored, sku at fault}
-- Codes:
--    1 RESTORED
--   -1 STOCK_SHORT
--   -9 UNKNOWN_SKU
--  -11 CORRUPT_RECORD
--  -20 FENCED
local RESTORED, STOCK_SHORT, UNKNOWN_SKU, CORRUPT_RECORD, FENCED = 1, -1, -9, -11, -20

--@include stock_line
--@include buyer_record

if ARGV[4] ~= ARGV[5] then return {FENCED, 0, ''} end
local orders = cmsgpack.unpack(ARGV[1])
local packed = redis.call('MGET', unpack(KEYS, 5))
local records, stock, new_holders, count = {}, {}, {}, 0
redis.call('STRLEN', KEYS[4])
for i, order in ipairs(orders) do
  local key, sku, quantity = KEYS[4 + i], order[3], order[4]
  local record = records[key] or read_buyer_record(packed[i])
  if not record then return {CORRUPT_RECORD, 0, sku} end
  records[key] = record
  if not find_attempt(record, order[1]) then
    local s = stock[sku] or read_stock_line(redis.call('HGET', KEYS[2], sku))
    if not s then return {UNKNOWN_SKU, 0, sku} end
    stock[sku] = s
    if order[6] == 1 then
      if s.remaining < quantity then return {STOCK_SHORT, 0, sku} end
      s.remaining, s.taken = s.remaining - quantity, s.taken + quantity
    else
      s.taken, s.returned = s.taken + quantity, s.returned + quantity
    end
    table.insert(record[3], {order[1], order[2], sku, quantity, order[5], order[6]})
    table.insert(new_holders, string.sub(ARGV[3], 8 * i - 7, 8 * i))
    count = count + 1
  end
end

-- The stream must not hand out ids again that Kafka already knows.
local last_id = redis.call('HGET', KEYS[1], 'last_outbox_id') or '0-0'
local ms, seq = string.match(last_id, '^(%d+)-(%d+)$')
local new_ms, new_seq = string.match(ARGV[2], '^(%d+)-(%d+)$')
if tonumber(new_ms) > tonumber(ms) or (new_ms == ms and tonumber(new_seq) > tonumber(seq)) then
  if redis.call('EXISTS', KEYS[3]) == 1 then
    redis.call('XSETID', KEYS[3], ARGV[2])
  else
    redis.call('XADD', KEYS[3], ARGV[2], 't', '0')
    redis.call('XDEL', KEYS[3], ARGV[2])
  end
  redis.call('HSET', KEYS[1], 'last_outbox_id', ARGV[2])
end
for sku, s in pairs(stock) do redis.call('HSET', KEYS[2], sku, write_stock_line(s)) end
for key, record in pairs(records) do redis.call('SET', key, cmsgpack.pack(record)) end
if #new_holders > 0 then redis.call('APPEND', KEYS[4], table.concat(new_holders)) end
return {RESTORED, count, ''}
