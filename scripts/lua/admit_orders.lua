-- Decides a whole batch of orders of one campaign, atomically. Plans everything first, in order and cumulatively, and
-- only then writes, because Redis does not roll back: every key that is written is read (and so type-checked) before.
--
-- KEYS  1 campaign  2 stock  3 outbox  4 holders  5.. the buyer record of each order, in the order of the batch
-- ARGV  1 run id of the caller's connection
--       2 MessagePack array of two strings an order: order (32 hex), fingerprint, sku and quantity, each packed, one
--         after the other; and the user, packed
--       3 attempts remembered per buyer at most
--       4 outbox entries at most
--       5 the hashes of the orders' users, 8 bytes each, in the order of the batch
-- Returns {0, now_us, last outbox id, length of holders, packed {outcome, detail, ...}, {sold-out sku, epoch, ...}}
--       or {FENCED} or {UNKNOWN_CAMPAIGN}; nothing was changed then.
--       detail: milliseconds to wait for the two RATE_LIMITED, else 0.
-- Codes:
--    1 ACCEPTED
--    2 REPLAYED
--   -1 SOLD_OUT
--   -2 LIMIT_REACHED
--   -3 RATE_LIMITED
--   -4 USER_RATE_LIMITED
--   -5 NOT_STARTED
--   -6 ENDED
--   -7 PAUSED
--   -8 KEY_REUSED
--   -9 UNKNOWN_SKU
--  -10 INVALID_QUANTITY
--  -11 CORRUPT_RECORD
--  -12 OUTBOX_FULL
--  -20 FENCED
--  -21 UNKNOWN_CAMPAIGN
local ACCEPTED, REPLAYED = 1, 2
local SOLD_OUT, LIMIT_REACHED, RATE_LIMITED, USER_RATE_LIMITED = -1, -2, -3, -4
local NOT_STARTED, ENDED, PAUSED, KEY_REUSED = -5, -6, -7, -8
local UNKNOWN_SKU, INVALID_QUANTITY, CORRUPT_RECORD, OUTBOX_FULL = -9, -10, -11, -12
local FENCED, UNKNOWN_CAMPAIGN = -20, -21
local QUANTITY_MAX = 1000

--@include stock_line
--@include order_batch
--@include buyer_record
--@include token_bucket

-- Read all that the batch needs.
local c = redis.call('HMGET', KEYS[1], 'state', 'opens_ms', 'closes_ms', 'admit_per_s', 'admit_burst', 'user_per_s',
  'user_burst', 'run_id', 'tokens_u', 'refilled_us', 'last_outbox_id')
if not c[1] then return {UNKNOWN_CAMPAIGN} end
if c[8] ~= ARGV[1] then return {FENCED} end
local state, opens_ms, closes_ms = c[1], tonumber(c[2]), tonumber(c[3])
local admit_per_s, admit_burst = tonumber(c[4]), tonumber(c[5])
local user_per_s, user_burst = tonumber(c[6]), tonumber(c[7])
local attempts_max = tonumber(ARGV[3])
local outbox_full = redis.call('XLEN', KEYS[3]) >= tonumber(ARGV[4])
local holders_length = redis.call('STRLEN', KEYS[4])

local packed = redis.call('MGET', unpack(KEYS, 5))
local orders, ids, prints, skus, quantities = read_orders(ARGV[2])
local stock = read_stock(KEYS[2], skus)

local time = redis.call('TIME')
local now_us = time[1] * 1000000 + time[2]
local now_ms = math.floor(now_us / 1000)
local closed_for = nil
if state == 'closed' or now_ms >= closes_ms then closed_for = ENDED
elseif state == 'loaded' or now_ms < opens_ms then closed_for = NOT_STARTED
elseif state == 'paused' then closed_for = PAUSED end
local tokens_u, refilled_us = refilled(tonumber(c[9]), tonumber(c[10]), admit_per_s, admit_burst, now_us)

-- Plan. Most orders are the first of their buyer: such a record is put together from what came packed.
local records, changed, touched, accepted, holders, taken_skus = {}, {}, {}, {}, {}, {}
local full_u = user_burst * TOKEN
local first_of_buyer = new_record_head(full_u - TOKEN, now_us)
local campaign_changed = false

local function change(key, record)
  records[key] = record
  if not touched[key] then
    touched[key] = true
    changed[#changed + 1] = key
  end
end

local function decide(i)
  local quantity, sku, key = quantities[i], skus[i], KEYS[4 + i]
  if type(quantity) ~= 'number' or quantity < 1 or quantity > QUANTITY_MAX or quantity % 1 ~= 0 then
    return INVALID_QUANTITY, 0
  end
  local record = records[key] or packed[i]
  if record then
    if type(record) == 'string' then
      record = read_buyer_record(record)
      if not record then return CORRUPT_RECORD, 0 end
      records[key] = record
    end
    local before = find_attempt(record, ids[i])
    if before then return (before[FINGERPRINT] == prints[i]) and REPLAYED or KEY_REUSED, 0 end
  end
  if closed_for then return closed_for, 0 end
  local s = stock[sku]
  if not s then return UNKNOWN_SKU, 0 end
  if s == 'corrupt' then return CORRUPT_RECORD, 0 end
  if outbox_full then return OUTBOX_FULL, 0 end
  -- A token is taken from both buckets or from none.
  local own_u, own_us, held, attempts = full_u, now_us, 0, 0
  if record then
    own_u, own_us = refilled(record[1], record[2], user_per_s, user_burst, now_us)
    held, attempts = units_held(record, sku), #record[3]
  end
  if own_u < TOKEN then return USER_RATE_LIMITED, wait_ms(own_u, user_per_s) end
  if tokens_u < TOKEN then return RATE_LIMITED, wait_ms(tokens_u, admit_per_s) end
  tokens_u, campaign_changed = tokens_u - TOKEN, true
  local refusal = nil
  if attempts >= attempts_max or held + quantity > s.per_user then refusal = LIMIT_REACHED
  elseif s.remaining < quantity then refusal = SOLD_OUT end
  if record then
    record[1], record[2] = own_u - TOKEN, own_us
    if not refusal then record[3][attempts + 1] = {ids[i], prints[i], sku, quantity, 1, 1} end
    change(key, record)
  elseif refusal then
    change(key, {own_u - TOKEN, own_us, {}})
  else
    change(key, first_of_buyer .. orders[2 * i - 1] .. HOLD_1_HELD)
  end
  if refusal then return refusal, 0 end
  s.remaining, s.taken = s.remaining - quantity, s.taken + quantity
  taken_skus[sku] = true
  accepted[#accepted + 1] = OUTBOX_ITEM .. orders[2 * i - 1] .. orders[2 * i] .. cmsgpack.pack(s.price) .. HOLD_1
  holders[#holders + 1] = i
  return ACCEPTED, 0
end

local results = {}
for i = 1, #ids do results[2 * i - 1], results[2 * i] = decide(i) end

-- Write. The outbox entry comes first: it is the promise, the rest follows from it.
local last_id = c[11] or '0-0'
if #accepted > 0 then
  last_id = redis.call('XADD', KEYS[3], '*', 't', now_ms, 'orders', array_head(#accepted) .. table.concat(accepted))
  redis.call('HSET', KEYS[2], unpack(stock_lines(stock, taken_skus)))
  holders_length = redis.call('APPEND', KEYS[4], hashes_at(ARGV[5], holders))
end
local lasting = {}
for _, key in ipairs(changed) do
  local record = records[key]
  if type(record) == 'string' or #record[3] > 0 then
    lasting[#lasting + 1] = key
    lasting[#lasting + 1] = type(record) == 'string' and record or cmsgpack.pack(record)
  else
    -- Only a bucket: when it would be full again the record says nothing.
    redis.call('SET', key, cmsgpack.pack(record), 'PX', math.ceil(user_burst / user_per_s * 1000) + 1000)
  end
end
if #lasting > 0 then redis.call('MSET', unpack(lasting)) end
if campaign_changed then
  redis.call('HSET', KEYS[1], 'tokens_u', string.format('%.0f', tokens_u), 'refilled_us',
    string.format('%.0f', refilled_us), 'last_outbox_id', last_id)
end

return {0, now_us, last_id, holders_length, cmsgpack.pack(results), sold_out(stock)}
