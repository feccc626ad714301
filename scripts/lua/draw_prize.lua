-- Decides a whole batch of draws of one lottery, atomically; see domain/lottery.py for what decides a draw. Plans
-- everything first, in order and cumulatively, and only then writes, as admit_orders.lua does.
--
-- KEYS  1 campaign  2 stock  3 outbox  4 holders  5 hashes of the log's entries  6.. the buyer record of each draw
-- ARGV  1 run id of the caller's connection
--       2 32 hex a draw, in the order of the batch, as the next two are
--       3 33 bytes a draw: u, and the digit 1, for most draws are their buyer's first
--       4 the hashes of the draws' users, 8 bytes each
--       5 outbox entries at most  6 bytes of a record's key before the user
-- Returns {0, last outbox id, number of the line of the first draw, hash of the draws' entry, packed {outcome, detail,
--       place, ...}, {number, hash, ...} of each REPLAYED, {sold-out sku, epoch, ...}, the prizes} or {FENCED} or
--       {UNKNOWN_CAMPAIGN}: no such lottery; nothing was changed then. detail: which of its user's draws it is, or
--       milliseconds to wait for the two RATE_LIMITED, else 0. place: of the prize, 0 for none. The lines of ACCEPTED
--       follow each other; the hash of a line from the first draw's on is that of the draws' entry.
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
--  -11 CORRUPT_RECORD
--  -12 OUTBOX_FULL
--  -20 FENCED
--  -21 UNKNOWN_CAMPAIGN
local ACCEPTED, REPLAYED = 1, 2
local SOLD_OUT, LIMIT_REACHED, RATE_LIMITED, USER_RATE_LIMITED = -1, -2, -3, -4
local NOT_STARTED, ENDED, PAUSED, CORRUPT_RECORD, OUTBOX_FULL = -5, -6, -7, -11, -12
local FENCED, UNKNOWN_CAMPAIGN = -20, -21

--@include stock_line
--@include buyer_record
--@include draw_record
--@include draw_log
--@include prizes
--@include order_batch
--@include token_bucket

-- Read all that the batch needs.
local c = redis.call('HMGET', KEYS[1], 'state', 'opens_ms', 'closes_ms', 'admit_per_s', 'admit_burst', 'user_per_s',
  'user_burst', 'run_id', 'tokens_u', 'refilled_us', 'last_outbox_id', 'prizes', 'no_prize_weight', 'draws_per_user',
  'log_seq', 'log_hash')
if not c[12] then return {UNKNOWN_CAMPAIGN} end
if c[8] ~= ARGV[1] then return {FENCED} end
local state, opens_ms, closes_ms, draws_max = c[1], tonumber(c[2]), tonumber(c[3]), tonumber(c[14])
local admit_per_s, admit_burst = tonumber(c[4]), tonumber(c[5])
local user_per_s, user_burst = tonumber(c[6]), tonumber(c[7])
local last_id, log_seq, log_hash = c[11] or '0-0', tonumber(c[15]), c[16]
local outbox_full = redis.call('XLEN', KEYS[3]) >= tonumber(ARGV[5])
redis.call('STRLEN', KEYS[4])
local prizes = read_prizes(KEYS[2], c[12], tonumber(c[13]))
redis.call('HLEN', KEYS[5])
local packed = redis.call('MGET', unpack(KEYS, 6))
local ids, secrets, count, user_from = ARGV[2], ARGV[3], #KEYS - 5, ARGV[6] + 1
local sha1hex, pack = redis.sha1hex, cmsgpack.pack
local time = redis.call('TIME')
local now_us = time[1] * 1000000 + time[2]
local now_ms = math.floor(now_us / 1000)
local closed_for = nil
if state == 'closed' or now_ms >= closes_ms then closed_for = ENDED
elseif state == 'loaded' or now_ms < opens_ms or not log_seq then closed_for = NOT_STARTED
elseif state == 'paused' then closed_for = PAUSED end
local tokens_u, refilled_us = refilled(tonumber(c[9]), tonumber(c[10]), admit_per_s, admit_burst, now_us)

-- Plan. lasting: key, record, key, record, … as MSET takes them; at: key → where its record stands there
local results, lasting, at, to_pack, lines, new_holders, replays, taken = {}, {}, {}, {}, {}, {}, {}, {}
local drawn, written, holders, replayed, campaign_changed = 0, 0, 0, 0, false
local full_u, first_seq = user_burst * TOKEN, log_seq and log_seq + 1
local first_of_buyer = FOUR_PARTS .. pack(full_u - TOKEN) .. pack(now_us)

local function put(key, record)
  if not at[key] then lasting[written + 1], at[key], written = key, written + 2, written + 2 end
  lasting[at[key]] = record
  if type(record) == 'table' then to_pack[key] = record end
end

local function refused(code, detail) return pack(code, detail or 0, 0) end

local function decide(i)
  local key, id = KEYS[5 + i], sub(ids, 32 * i - 31, 32 * i)
  local record = at[key] and lasting[at[key]] or packed[i]
  if record then
    if type(record) == 'string' then record = read_draw_record(record) end
    if not record then return refused(CORRUPT_RECORD) end
    local n, place, seq, entry = find_draw(record, id)
    if n then
      replays[replayed + 1], replayed = seq, replayed + 2
      replays[replayed] = entry ~= first_seq and redis.call('HGET', KEYS[5], entry) or ''
      return pack(REPLAYED, n, place)
    end
  end
  if closed_for then return refused(closed_for) end
  if prizes.corrupt then return refused(CORRUPT_RECORD) end
  if outbox_full then return refused(OUTBOX_FULL) end
  local own_u, own_us, n = full_u, now_us, 1
  if record then
    own_u, own_us = refilled(record[1], record[2], user_per_s, user_burst, now_us)
    n = #record[DRAWS] + 1
  end
  if own_u < TOKEN then return refused(USER_RATE_LIMITED, wait_ms(own_u, user_per_s)) end
  if tokens_u < TOKEN then return refused(RATE_LIMITED, wait_ms(tokens_u, admit_per_s)) end
  tokens_u, campaign_changed = tokens_u - TOKEN, true
  if n > draws_max or prizes.total == 0 then
    put(key, {own_u - TOKEN, own_us, record and record[3] or {}, record and record[DRAWS] or {}})
    return refused(n > draws_max and LIMIT_REACHED or SOLD_OUT)
  end
  local u1, told = sub(secrets, 33 * i - 32, 33 * i), nil
  local prize = pick_prize(prizes, sha1hex(n == 1 and u1 or sub(u1, 1, 32) .. n))
  local s, user, after = prize.stock, sub(key, user_from), lines_after(drawn)
  if not prize.head then dress_prize(prize, first_of_buyer, first_seq, ACCEPTED) end
  drawn = drawn + 1
  if n == 1 then
    lines[drawn] = line_head(prize.length + #user) .. 'draw ' .. id .. prize.first_line .. user
    holders, new_holders[holders + 1], told = holders + 1, i, prize.told
  else
    local line = 'draw ' .. id .. ' ' .. n .. prize.line .. user
    lines[drawn], told = line_head(#line) .. line, pack(ACCEPTED, n, prize.place)
  end
  if record then
    record[1], record[2], record[DRAWS][n] = own_u - TOKEN, own_us, id .. prize.tail .. after
    if s then table.insert(record[3], {id, prize.fingerprint, prize.sku, 1, 1, HELD_PAID}) end
    put(key, record)
  elseif s then put(key, prize.head .. id .. prize.middle .. id .. prize.tail .. after)
  else put(key, prize.head .. id .. prize.tail .. after) end
  if s then taken[prize.sku] = take_prize(prizes, prize) end
  return told
end

for i = 1, count do results[i] = decide(i) end

-- Write. The outbox entry comes first: it is the promise, and the log.
if drawn > 0 then
  local whole = table.concat(lines)
  log_hash, log_seq = entry_hash(log_hash, first_seq, whole), log_seq + drawn
  last_id = redis.call('XADD', KEYS[3], '*', 't', now_ms, 'p', last_id, 'seq', first_seq, 'hash', log_hash, 'log',
    array_head(drawn) .. whole)
  redis.call('HSET', KEYS[5], first_seq, log_hash)
  if next(taken) then redis.call('HSET', KEYS[2], unpack(lines_sold(taken))) end
  if holders > 0 then redis.call('APPEND', KEYS[4], hashes_at(ARGV[4], new_holders, count)) end
end
for key, record in pairs(to_pack) do
  if #record[DRAWS] > 0 then
    lasting[at[key]] = pack(record)
  else
    -- Only a bucket: when it would be full again the record says nothing.
    redis.call('SET', key, pack(record), 'PX', math.ceil(user_burst / user_per_s * 1000) + 1000)
    lasting[at[key] - 1], lasting[at[key]] = lasting[written - 1], lasting[written]
    at[lasting[written - 1]], written = at[key], written - 2
  end
end
if written > 0 then redis.call('MSET', unpack(lasting, 1, written)) end
if campaign_changed then
  redis.call('HSET', KEYS[1], 'tokens_u', string.format('%.0f', tokens_u), 'refilled_us',
    string.format('%.0f', refilled_us), 'last_outbox_id', last_id, 'log_seq', log_seq, 'log_hash', log_hash)
end
return {0, last_id, first_seq or 0, log_hash or '', array_head(3 * count) .. table.concat(results), replays,
  sold_out(prizes.stock), c[12]}
