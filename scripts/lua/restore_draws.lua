-- Recovery: brings a lottery to where its log in Kafka is, in a Redis that has gone back to an older state, while the
-- gate is closed. An entry must go on from the one before it; one that Redis has is passed over, so that the same one
-- may be asked again.
--
-- KEYS  1 campaign  2 stock  3 outbox  4 holders  5 top-ups already made  6 duplicates given back
--       7 hashes of the log's entries  8 units withdrawn
--       9.. the buyer record of each line that is a draw or the release of one; else the campaign, which is not read
-- ARGV  1 MessagePack array of {kind, sku, units, reference, n}, one a line of the entry; kind and reference: draw and
--         release, the draw (32 hex); topup, its key; withdraw, the units in all; return, the draw, a blank and
--         the origin; open and close, empty
--       2 the entry: MessagePack array {number of its first line, hash, packed lines, outbox id}
--       3 the hashes of the lines' users, 8 bytes each
--       4 run id of the caller's connection  5 run id on which recovery compares  6 campaign id
--       7 MessagePack array of {sku, stock}: what an opening opened with
--       8 MessagePack array of {field, value} of the campaign hash: what an opening says is drawn from
-- Returns {code, draws restored}
-- Codes:
--    1 RESTORED
--   -1 STOCK_SHORT
--   -9 UNKNOWN_SKU
--  -11 CORRUPT_RECORD
--  -13 BROKEN_CHAIN
--  -20 FENCED
--  -21 UNKNOWN_CAMPAIGN
local RESTORED, STOCK_SHORT, UNKNOWN_SKU, CORRUPT_RECORD, BROKEN_CHAIN = 1, -1, -9, -11, -13
local FENCED, UNKNOWN_CAMPAIGN = -20, -21

--@include stock_line
--@include buyer_record
--@include draw_record
--@include draw_log
--@include outbox_chain

if ARGV[4] ~= ARGV[5] then return {FENCED, 0} end
local c = redis.call('HMGET', KEYS[1], 'state', 'prizes', 'log_seq', 'log_hash')
if not c[2] then return {UNKNOWN_CAMPAIGN, 0} end
local first_seq, hash, whole, outbox_id = unpack(cmsgpack.unpack(ARGV[2]))
local state, log_seq, lines = c[1], tonumber(c[3] or 0), cmsgpack.unpack(ARGV[1])
if first_seq + #lines - 1 <= log_seq then return {RESTORED, 0} end
if first_seq ~= log_seq + 1 or entry_hash(c[4] or ARGV[6], first_seq, whole) ~= hash then return {BROKEN_CHAIN, 0} end
local places, fingerprints = {['']=0}, {}
for place, prize in ipairs(cjson.decode(c[2])) do places[prize[1]], fingerprints[prize[1]] = place, prize[4] end
local records, stock, new_holders, topups, marks, withdrawn, count = {}, {}, {}, {}, {}, {}, 0
local opened, ended = false, false
local chain = read_outbox_chain(KEYS[1], KEYS[3])
redis.call('STRLEN', KEYS[4])
redis.call('HLEN', KEYS[5])
redis.call('HLEN', KEYS[6])
redis.call('HLEN', KEYS[7])
redis.call('HLEN', KEYS[8])

local function line_of(sku)
  stock[sku] = stock[sku] or read_stock_line(redis.call('HGET', KEYS[2], sku))
  return stock[sku]
end

local function open()
  for _, pair in ipairs(cmsgpack.unpack(ARGV[7])) do
    local s = line_of(pair[1])
    if not s then return UNKNOWN_SKU end
    s.remaining, s.allocated, s.taken, s.returned, s.epoch = pair[2], pair[2], 0, 0, s.epoch + 1
  end
  if state == 'loaded' then state = 'open' end
  opened, withdrawn = true, {}
  return nil
end

local function apply(i, kind, sku, units, reference, n)
  if kind == 'open' then return open() end
  if kind == 'close' then state, ended = 'closed', true return nil end
  local s, record = sku ~= '' and line_of(sku) or nil, nil
  if sku ~= '' and not s then return UNKNOWN_SKU end
  if kind == 'draw' or kind == 'release' then
    record = records[KEYS[8 + i]] or read_draw_record(redis.call('GET', KEYS[8 + i]))
    if not record then return CORRUPT_RECORD end
    records[KEYS[8 + i]] = record
  end
  if kind == 'draw' then
    if #record[DRAWS] ~= n - 1 then return CORRUPT_RECORD end
    record[DRAWS][n] = string.format('%s%d %.0f ', reference, places[sku], first_seq) .. lines_after(i - 1)
    if n == 1 then new_holders[#new_holders + 1] = string.sub(ARGV[3], 8 * i - 7, 8 * i) end
    count = count + 1
    if not s then return nil end
    table.insert(record[3], {reference, fingerprints[sku], sku, units, 1, HELD_PAID})
    s.taken, s.remaining = s.taken + units, s.remaining - units
  elseif kind == 'topup' then
    topups[reference] = sku .. ' ' .. string.format('%.0f', units)
    s.allocated, s.remaining, s.epoch = s.allocated + units, s.remaining + units, s.epoch + 1
  elseif kind == 'withdraw' then
    withdrawn[sku] = reference
    s.allocated, s.remaining = s.allocated - units, s.remaining - units
  else
    local attempt = record and find_attempt(record, reference)
    if record and not attempt then return CORRUPT_RECORD end
    if attempt then attempt[HELD] = 0 else marks[reference] = units end
    s.returned, s.remaining, s.epoch = s.returned + units, s.remaining + units, s.epoch + 1
  end
  return s.remaining < 0 and STOCK_SHORT or nil
end

for i, line in ipairs(lines) do
  local fault = apply(i, unpack(line))
  if fault then return {fault, 0} end
end

move_outbox_on(chain, outbox_id)
for sku, s in pairs(stock) do redis.call('HSET', KEYS[2], sku, write_stock_line(s)) end
for key, record in pairs(records) do redis.call('SET', key, cmsgpack.pack(record)) end
-- Which top-ups came before its opening a log does not say; their units are in what it opens with.
if opened then redis.call('DEL', KEYS[5]) end
for key, what in pairs(topups) do redis.call('HSET', KEYS[5], key, what) end
-- What the catalog says was withdrawn is what a lottery that was lost is created with; from its opening on the log says.
if opened then redis.call('DEL', KEYS[8]) end
for _, pair in ipairs(cmsgpack.unpack(ARGV[8])) do redis.call('HSET', KEYS[1], pair[1], pair[2]) end
for sku, units in pairs(withdrawn) do redis.call('HSET', KEYS[8], sku, units) end
for mark, units in pairs(marks) do redis.call('HSET', KEYS[6], mark, units) end
if #new_holders > 0 then redis.call('APPEND', KEYS[4], table.concat(new_holders)) end
if count > 0 then redis.call('HSET', KEYS[7], first_seq, hash) end
local last_seq = string.format('%.0f', first_seq + #lines - 1)
redis.call('HSET', KEYS[1], 'state', state, 'log_seq', last_seq, 'log_hash', hash)
if ended then redis.call('HSET', KEYS[1], 'log_end_id', outbox_id) end
return {RESTORED, count}
