-- Recovery: brings orders to where Kafka and MySQL have them, in a Redis that has gone back to an older state, while
-- the gate is closed. An order that is as far here, or further, is left alone, so that it may be asked again.
--
-- KEYS  1 campaign  2 stock  3 outbox  4 holders  5 duplicates given back  6.. the buyer record of each order
-- ARGV  1 MessagePack array of {order, fingerprint, sku, quantity, hold number, held 0, 1 or 2 (paid), origin}
--         origin: of the deduction, if Redis has lost it, else empty. Where the order is known all the same, that was a
--         second deduction: as it is lost, its units need not be given back any more
--       2 the highest outbox id of all that is lost, with the last piece; 0-0 with those before it, so that a recovery
--         that breaks off begins again  3 the hashes of the orders' users, 8 bytes each
--       4 run id of the caller's connection  5 run id on which recovery compares
-- Returns {code, orders moved, sku at fault}
-- Codes:
--    1 RESTORED
--   -1 STOCK_SHORT
--   -9 UNKNOWN_SKU
--  -11 CORRUPT_RECORD
--  -20 FENCED
local RESTORED, STOCK_SHORT, UNKNOWN_SKU, CORRUPT_RECORD, FENCED = 1, -1, -9, -11, -20

--@include stock_line
--@include buyer_record
--@include outbox_chain
--@include draw_log

if ARGV[4] ~= ARGV[5] then return {FENCED, 0, ''} end
local orders = cmsgpack.unpack(ARGV[1])
local packed = redis.call('MGET', unpack(KEYS, 6))
local records, changed, stock, new_holders, marks, moves, count = {}, {}, {}, {}, {}, {}, 0
redis.call('STRLEN', KEYS[4])
redis.call('HLEN', KEYS[5])
for i, order in ipairs(orders) do
  local key, hold_no, held = KEYS[5 + i], order[5], order[6]
  local record = records[key] or read_buyer_record(packed[i])
  if not record then return {CORRUPT_RECORD, 0, order[3]} end
  records[key] = record
  local attempt = find_attempt(record, order[1])
  local sku, quantity = attempt and attempt[SKU] or order[3], attempt and attempt[QUANTITY] or order[4]
  if attempt and order[7] ~= '' then marks[order[1] .. ' ' .. order[7]] = quantity end
  local from, was_held = attempt and attempt[HOLD_NO] or 0, attempt and is_held(attempt)
  if from < hold_no or (from == hold_no and was_held and (held == 0 or held > attempt[HELD])) then
    local s = stock[sku] or read_stock_line(redis.call('HGET', KEYS[2], sku))
    if not s then return {UNKNOWN_SKU, 0, sku} end
    stock[sku] = s
    -- Every hold in between was taken, and all but the last were given back.
    local taken = (hold_no - from) * quantity
    local returned = taken - (was_held and 0 or quantity) + (held == 0 and quantity or 0)
    s.taken, s.returned, s.remaining = s.taken + taken, s.returned + returned, s.remaining - taken + returned
    if s.remaining < 0 then return {STOCK_SHORT, 0, sku} end
    if returned > taken then s.epoch = s.epoch + 1 end
    local units = returned - taken
    if units ~= 0 then
      moves[#moves + 1] = (units > 0 and 'release ' or 'take ') .. math.abs(units) .. ' ' .. sku .. ' ' .. order[1]
    end
    if attempt then
      attempt[HOLD_NO], attempt[HELD] = hold_no, held
    else
      table.insert(record[3], {order[1], order[2], sku, quantity, hold_no, held})
      table.insert(new_holders, string.sub(ARGV[3], 8 * i - 7, 8 * i))
    end
    changed[key], count = true, count + 1
  end
end

local chain = read_outbox_chain(KEYS[1], KEYS[3])

move_outbox_on(chain, ARGV[2])
for _, move in ipairs(moves) do log_move(KEYS[1], KEYS[3], move) end
for sku, s in pairs(stock) do redis.call('HSET', KEYS[2], sku, write_stock_line(s)) end
for key in pairs(changed) do redis.call('SET', key, cmsgpack.pack(records[key])) end
for mark, quantity in pairs(marks) do redis.call('HSET', KEYS[5], mark, quantity) end
if #new_holders > 0 then redis.call('APPEND', KEYS[4], table.concat(new_holders)) end
return {RESTORED, count, ''}
