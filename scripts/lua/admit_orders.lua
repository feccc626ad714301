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
--@include buyer_record
--@include order_batch
--@include token_bucket

-- Read all that the batch needs.
local c = redis.call('HMGET', KEYS[1], 'state', 'opens_ms', 'closes_ms', 'admit_per_s', 'admit_burst', 'user_per_s',
  'user_burst', 'run_id', 'tokens_u', 'refilled_us', 'last_outbox_id', 'unpaid_per_user')
if not c[1] then return {UNKNOWN_CAMPAIGN} end
if c[8] ~= ARGV[1] then return {FENCED} end
local state, opens_ms, closes_ms, attempts_max = c[1], tonumber(c[2]), tonumber(c[3]), tonumber(ARGV[3])
local admit_per_s, admit_burst = tonumber(c[4]), tonumber(c[5])
local user_per_s, user_burst, unpaid_max = tonumber(c[6]), tonumber(c[7]), tonumber(c[12]) or attempts_max
local outbox_full = redis.call('XLEN', KEYS[3]) >= tonumber(ARGV[4])
local last_id, holders_length = c[11] or '0-0', redis.call('STRLEN', KEYS[4])

local packed = redis.call('MGET', unpack(KEYS, 5))
local orders, stock, unpacked = cmsgpack.unpack(ARGV[2]), {}, cmsgpack.unpack
local count = #orders / 2

local time = redis.call('TIME')
local now_us = time[1] * 1000000 + time[2]
local now_ms = math.floor(now_us / 1000)
local closed_for = nil
if state == 'closed' or now_ms >= closes_ms then closed_for = ENDED
elseif state == 'loaded' or now_ms < opens_ms then closed_for = NOT_STARTED
elseif state == 'paused' then closed_for = PAUSED end
local tokens_u, refilled_us = refilled(tonumber(c[9]), tonumber(c[10]), admit_per_s, admit_burst, now_us)

-- Plan. Most orders are the first of their buyer: such a record is joined from pieces that came packed.
-- lasting: key, record, key, record, … as MSET takes them; at: key → where its record stands there
local lasting, at, records_to_pack, items, holders, taken = {}, {}, {}, {}, {}, {}
local accepted, written = 0, 0
local full_u = user_burst * TOKEN
local first_of_buyer = new_record_head(full_u - TOKEN, now_us)
local campaign_changed = false

local function put(key, record)
  if not at[key] then
    lasting[written + 1], at[key], written = key, written + 2, written + 2
  end
  lasting[at[key]] = record
  if type(record) == 'table' then records_to_pack[key] = record end
end

local function decide(i)
  local attempt, key = orders[2 * i - 1], KEYS[4 + i]
  local id, print_, sku, quantity = unpacked(attempt)
  if type(quantity) ~= 'number' or quantity < 1 or quantity > QUANTITY_MAX or quantity % 1 ~= 0 then
    return INVALID_QUANTITY, 0
  end
  local record = at[key] and lasting[at[key]] or packed[i]
  if record then
    if type(record) == 'string' then record = read_buyer_record(record) end
    if not record then return CORRUPT_RECORD, 0 end
    local before = find_attempt(record, id)
    if before then return (before[FINGERPRINT] == print_) and REPLAYED or KEY_REUSED, 0 end
  end
  if closed_for then return closed_for, 0 end
  local s = stock[sku]
  if s == nil then
    s = read_line_to_sell(redis.call('HGET', KEYS[2], sku))
    stock[sku] = s
  end
  if not s then return UNKNOWN_SKU, 0 end
  if s == 'corrupt' then return CORRUPT_RECORD, 0 end
  if outbox_full then return OUTBOX_FULL, 0 end
  -- A token is taken from both buckets or from none.
  local own_u, own_us, held, unpaid, attempts = full_u, now_us, 0, 0, 0
  if record then
    own_u, own_us = refilled(record[1], record[2], user_per_s, user_burst, now_us)
    held, unpaid, attempts = holdings(record, sku)
  end
  if own_u < TOKEN then return USER_RATE_LIMITED, wait_ms(own_u, user_per_s) end
  if tokens_u < TOKEN then return RATE_LIMITED, wait_ms(tokens_u, admit_per_s) end
  tokens_u, campaign_changed = tokens_u - TOKEN, true
  local refusal = nil
  if attempts >= attempts_max or unpaid >= unpaid_max or held + quantity > s.per_user then refusal = LIMIT_REACHED
  elseif s.remaining < quantity then refusal = SOLD_OUT end
  if record then
    record[1], record[2] = own_u - TOKEN, own_us
    if not refusal then record[3][attempts + 1] = {id, print_, sku, quantity, 1, 1} end
    put(key, record)
  elseif refusal then
    put(key, {own_u - TOKEN, own_us, {}})
  else
    put(key, first_of_buyer .. attempt .. HOLD_1_HELD)
  end
  if refusal then return refusal, 0 end
  s.remaining, s.taken, taken[sku] = s.remaining - quantity, s.taken + quantity, s
  local n = 4 * accepted
  items[n + 1], items[n + 2], items[n + 3], items[n + 4] = OUTBOX_ITEM, attempt, orders[2 * i], s.price_and_hold
  accepted = accepted + 1
  holders[accepted] = i
  return ACCEPTED, 0
end

local results = {}
for i = 1, count do results[2 * i - 1], results[2 * i] = decide(i) end

-- Write. The outbox entry comes first: it is the promise. It names the one before it, so that a gap is noticed.
if accepted > 0 then
  local packed_items = array_head(accepted) .. table.concat(items)
  last_id = redis.call('XADD', KEYS[3], '*', 't', now_ms, 'p', last_id, 'orders', packed_items)
  redis.call('HSET', KEYS[2], unpack(lines_sold(taken)))
  holders_length = redis.call('APPEND', KEYS[4], hashes_at(ARGV[5], holders, count))
end
for key, record in pairs(records_to_pack) do
  if #record[3] > 0 then
    lasting[at[key]] = cmsgpack.pack(record)
  else
    -- Only a bucket: when it would be full again the record says nothing.
    redis.call('SET', key, cmsgpack.pack(record), 'PX', math.ceil(user_burst / user_per_s * 1000) + 1000)
    lasting[at[key] - 1], lasting[at[key]] = lasting[written - 1], lasting[written]
    at[lasting[written - 1]], written = at[key], written - 2
  end
end
if written > 0 then redis.call('MSET', unpack(lasting, 1, written)) end
if campaign_changed then
  redis.call('HSET', KEYS[1], 'tokens_u', string.format('%.0f', tokens_u), 'refilled_us',
    string.format('%.0f', refilled_us), 'last_outbox_id', last_id)
end
return {0, now_us, last_id, holders_length, cmsgpack.pack(results), sold_out(stock)}
