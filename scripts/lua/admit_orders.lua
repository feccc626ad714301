-- Decides a whole batch of orders of one campaign, atomically. Plans everything first, in order and cumulatively, and
-- only then writes, because Redis does not roll back: every key that is written is read (and so type-checked) before.
--
-- KEYS  1 campaign  2 stock  3 outbox  4 holders  5.. the buyer record of each order, in the order of the batch
-- ARGV  1 run id of the caller's connection
--       2 MessagePack array of {order (32 hex), fingerprint, sku, quantity, user}
--       3 attempts remembered per buyer at most
--       4 outbox entries at most
--       5 the hashes of the orders' users, 8 bytes each, in the order of the batch
-- Returns {0, now_us, last outbox id, length of holders, {outcome, detail, ...}, {sold-out sku, epoch, ...}}
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

local orders = cmsgpack.unpack(ARGV[2])
local packed = redis.call('MGET', unpack(KEYS, 5))
local stock, wanted = {}, {}
for _, order in ipairs(orders) do
  if stock[order[3]] == nil then
    stock[order[3]] = false
    wanted[#wanted + 1] = order[3]
  end
end
for i, text in ipairs(redis.call('HMGET', KEYS[2], unpack(wanted))) do
  if text then stock[wanted[i]] = read_stock_line(text) or 'corrupt' end
end

local time = redis.call('TIME')
local now_us = time[1] * 1000000 + time[2]
local now_ms = math.floor(now_us / 1000)
local closed_for = nil
if state == 'closed' or now_ms >= closes_ms then closed_for = ENDED
elseif state == 'loaded' or now_ms < opens_ms then closed_for = NOT_STARTED
elseif state == 'paused' then closed_for = PAUSED end
local tokens_u, refilled_us = refilled(tonumber(c[9]), tonumber(c[10]), admit_per_s, admit_burst, now_us)

-- Plan.
local records, changed, taken_skus, accepted, new_holders = {}, {}, {}, {}, {}
local campaign_changed = false

local function decide(i, order)
  local id, print_, sku, quantity, key = order[1], order[2], order[3], order[4], KEYS[4 + i]
  if type(quantity) ~= 'number' or quantity < 1 or quantity > QUANTITY_MAX or quantity % 1 ~= 0 then
    return INVALID_QUANTITY, 0
  end
  local record = records[key]
  if record == nil then
    record = read_buyer_record(packed[i]) or false
    records[key] = record
  end
  if not record then return CORRUPT_RECORD, 0 end
  local before = find_attempt(record, id)
  if before then return (before[FINGERPRINT] == print_) and REPLAYED or KEY_REUSED, 0 end
  if closed_for then return closed_for, 0 end
  local s = stock[sku]
  if not s then return UNKNOWN_SKU, 0 end
  if s == 'corrupt' then return CORRUPT_RECORD, 0 end
  if outbox_full then return OUTBOX_FULL, 0 end
  -- A token is taken from both buckets or from none.
  local own_u, own_us = refilled(record[1], record[2], user_per_s, user_burst, now_us)
  if own_u < TOKEN then return USER_RATE_LIMITED, wait_ms(own_u, user_per_s) end
  if tokens_u < TOKEN then return RATE_LIMITED, wait_ms(tokens_u, admit_per_s) end
  record[1], record[2], tokens_u = own_u - TOKEN, own_us, tokens_u - TOKEN
  changed[key], campaign_changed = true, true
  if #record[3] >= attempts_max or units_held(record, sku) + quantity > s.per_user then return LIMIT_REACHED, 0 end
  if s.remaining < quantity then return SOLD_OUT, 0 end
  s.remaining, s.taken = s.remaining - quantity, s.taken + quantity
  taken_skus[sku] = true
  table.insert(record[3], {id, print_, sku, quantity, 1, 1})
  table.insert(accepted, {id, print_, sku, quantity, order[5], s.price, 1})
  table.insert(new_holders, string.sub(ARGV[5], 8 * i - 7, 8 * i))
  return ACCEPTED, 0
end

local results = {}
for i, order in ipairs(orders) do
  local outcome, detail = decide(i, order)
  results[2 * i - 1], results[2 * i] = outcome, detail
end

-- Write. The outbox entry comes first: it is the promise, the rest follows from it.
local last_id = c[11] or '0-0'
if #accepted > 0 then
  last_id = redis.call('XADD', KEYS[3], '*', 't', now_ms, 'orders', cmsgpack.pack(accepted))
  local lines = {}
  for sku in pairs(taken_skus) do
    table.insert(lines, sku)
    table.insert(lines, write_stock_line(stock[sku]))
  end
  redis.call('HSET', KEYS[2], unpack(lines))
  holders_length = redis.call('APPEND', KEYS[4], table.concat(new_holders))
end
local lasting = {}
for key in pairs(changed) do
  local record = records[key]
  if #record[3] > 0 then
    table.insert(lasting, key)
    table.insert(lasting, cmsgpack.pack(record))
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

local sold_out = {}
for sku, s in pairs(stock) do
  if s and s ~= 'corrupt' and s.remaining == 0 then
    table.insert(sold_out, sku)
    table.insert(sold_out, s.epoch)
  end
end
return {0, now_us, last_id, holders_length, results, sold_out}
