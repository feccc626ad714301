-- Creates a campaign with its stock, or brings an existing one to a new file; all or nothing. A SKU's stock moves by
-- what the file has changed, so that the same file again takes no top-up back.
--
-- KEYS  1 campaign  2 stock  3 index of campaigns  4 stock as the file had it  5 units withdrawn
-- ARGV  1 run id of the caller's connection  2 campaign id  3 MessagePack array of pairs {field, value} of the campaign hash
--       4 MessagePack array of {sku, stock in the file, per_user, price_cents, allocated, withdrawn}; the last two are
--         what the catalog has, for a campaign that is created here: of one that was lost it is not what the file says
--       5 channel of changes  6 "1": only check  7 number of this load, 0: not numbered  8 state of a new campaign
--       9 "1": one that is created here was lost, its gate stays closed; else there is nothing recovery could compare
-- Returns {code, sku, units sold}. A numbered load that is refused for what is sold stays refused: its caller gives
-- back what it was allocated, and whoever carries it out beside him must not get it through after all. The same holds
-- for one that changes what an opened lottery draws from, or the campaign's kind; what is at fault stands for the SKU.
-- Codes:
--    0 UNCHANGED
--    1 CREATED
--    2 UPDATED
--   -1 STOCK_BELOW_SOLD
--   -2 SKU_MISSING
--   -3 CORRUPT_STOCK
--   -4 STALE
--   -5 REFUSED_BEFORE
--   -6 OTHER_KIND
--   -7 FROZEN
--  -20 FENCED
local UNCHANGED, CREATED, UPDATED = 0, 1, 2
local STOCK_BELOW_SOLD, SKU_MISSING, CORRUPT_STOCK, STALE, REFUSED_BEFORE = -1, -2, -3, -4, -5
local OTHER_KIND, FROZEN, FENCED = -6, -7, -20

--@include stock_line

local existing, present = redis.call('HGETALL', KEYS[2]), {}
for i = 1, #existing, 2 do
  local s = read_stock_line(existing[i + 1])
  if not s then return {CORRUPT_STOCK, existing[i], 0} end
  present[existing[i]] = s
end
local run_id = redis.call('HGET', KEYS[1], 'run_id')
local is_new = not run_id
-- While recovery has not compared, what seems unsold may be sold: stock may be raised (it may be short), not lowered.
local gate_closed = run_id and run_id ~= ARGV[1]
local only_check, load_no = ARGV[6] == '1', tonumber(ARGV[7])
local last_no = tonumber(redis.call('HGET', KEYS[1], 'load_no') or 0)
if not only_check then
  if load_no < last_no then return {STALE, '', 0} end
  -- Numbers rise, and one load is under way at a time: what is not newer than a refused one has been undone, too.
  local refused_no = tonumber(redis.call('HGET', KEYS[1], 'refused_load_no') or 0)
  if load_no > 0 and load_no <= refused_no then return {REFUSED_BEFORE, '', 0} end
end
local function refuse(code, sku, sold)
  if not only_check and load_no > 0 then redis.call('HSET', KEYS[1], 'refused_load_no', ARGV[7]) end
  return {code, sku, sold}
end

local kind, log_seq = unpack(redis.call('HMGET', KEYS[1], 'kind', 'log_seq'))
local frozen = log_seq and {prizes = true, no_prize_weight = true, draws_per_user = true, commitment = true} or {}
local fields = {}
for _, pair in ipairs(cmsgpack.unpack(ARGV[3])) do
  local name, value = pair[1], tostring(pair[2])
  if redis.call('HGET', KEYS[1], name) ~= value then
    if name == 'kind' and kind then return refuse(OTHER_KIND, kind, 0) end
    if frozen[name] then return refuse(FROZEN, name, 0) end
    table.insert(fields, name)
    table.insert(fields, value)
  end
end
redis.call('HLEN', KEYS[5])
local loaded, withdrawn, lines = {}, {}, {}
for _, sku in ipairs(cmsgpack.unpack(ARGV[4])) do
  local id, in_file, per_user, price = sku[1], sku[2], sku[3], sku[4]
  local s = present[id] or {remaining = 0, taken = 0, returned = 0, allocated = 0, epoch = 1, per_user = 0, price = 0}
  local before = present[id] and write_stock_line(s)
  if log_seq and (not before or tonumber(redis.call('HGET', KEYS[4], id) or 0) ~= in_file) then
    return refuse(FROZEN, 'stock', 0)
  end
  local sold = s.taken - s.returned
  local allocated = s.allocated + in_file - tonumber(redis.call('HGET', KEYS[4], id) or 0)
  if is_new and not before then
    allocated = sku[5]
    if sku[6] > 0 then
      table.insert(withdrawn, id)
      table.insert(withdrawn, sku[6])
    end
  end
  present[id] = nil
  table.insert(loaded, id)
  table.insert(loaded, in_file)
  if gate_closed and allocated < s.allocated then return {FENCED, id, sold} end
  if allocated < sold then return refuse(STOCK_BELOW_SOLD, id, sold) end
  if allocated > s.allocated then s.epoch = s.epoch + 1 end
  s.remaining, s.allocated, s.per_user, s.price = allocated - sold, allocated, per_user, price
  local line = write_stock_line(s)
  if line ~= before then
    table.insert(lines, id)
    table.insert(lines, line)
  end
end
for id, s in pairs(present) do return refuse(SKU_MISSING, id, s.taken - s.returned) end
local code = is_new and CREATED or ((#lines > 0 or #fields > 0) and UPDATED or UNCHANGED)
if only_check or (code == UNCHANGED and load_no == last_no) then return {code, '', 0} end

if is_new then
  -- Before its creation nothing can have been lost of it; one that is created with its gate closed existed before.
  local was_lost = ARGV[9] == '1'
  local created_ms = was_lost and 0 or redis.call('TIME')[1] * 1000
  redis.call('HSET', KEYS[1], 'state', ARGV[8], 'run_id', was_lost and '' or ARGV[1], 'created_ms', created_ms)
  redis.call('SADD', KEYS[3], ARGV[2])
end
if load_no > last_no then redis.call('HSET', KEYS[1], 'load_no', ARGV[7]) end
for i = 1, #fields, 2 do redis.call('HSET', KEYS[1], fields[i], fields[i + 1]) end
for i = 1, #loaded, 2 do redis.call('HSET', KEYS[4], loaded[i], loaded[i + 1]) end
for i = 1, #withdrawn, 2 do redis.call('HSET', KEYS[5], withdrawn[i], withdrawn[i + 1]) end
for i = 1, #lines, 2 do redis.call('HSET', KEYS[2], lines[i], lines[i + 1]) end
redis.call('PUBLISH', ARGV[5], ARGV[2])
return {code, '', 0}
