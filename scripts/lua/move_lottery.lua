-- Moves a lottery's state by compare-and-set, and writes into its log what begins and ends it: the first opening with
-- all that is drawn from, and the closing. From its closing on its seed may be told.
--
-- KEYS  1 campaign  2 stock  3 outbox
-- ARGV  1 campaign id  2 the new state  3 channel of changes  4 run id of the caller's connection
--       5.. the states it may come from
-- Returns {code, the state before}
-- Codes:
--    0 UNCHANGED
--    1 MOVED
--   -1 NOT_POSSIBLE
--   -3 CORRUPT_STOCK
--  -20 FENCED
--  -21 UNKNOWN_CAMPAIGN
local UNCHANGED, MOVED, NOT_POSSIBLE, CORRUPT_STOCK = 0, 1, -1, -3
local FENCED, UNKNOWN_CAMPAIGN = -20, -21

--@include stock_line
--@include draw_log

local c = redis.call('HMGET', KEYS[1], 'state', 'run_id', 'prizes', 'no_prize_weight', 'draws_per_user', 'commitment',
  'log_seq')
local state, log_seq = c[1], c[7]
if not state or not c[3] then return {UNKNOWN_CAMPAIGN, ''} end
if state == ARGV[2] then return {UNCHANGED, state} end
local possible = false
for i = 5, #ARGV do possible = possible or ARGV[i] == state end
if not possible then return {NOT_POSSIBLE, state} end
-- What is written into the log must go on from where it is; recovery brings it there.
if c[2] ~= ARGV[4] then return {FENCED, state} end
redis.call('XLEN', KEYS[3])

if ARGV[2] == 'open' and not log_seq then
  local parts = {'open', c[6], c[5], c[4]}
  for _, prize in ipairs(cjson.decode(c[3])) do
    local s = read_stock_line(redis.call('HGET', KEYS[2], prize[1]))
    if not s then return {CORRUPT_STOCK, state} end
    parts[#parts + 1] = string.format('%s,%.0f,%.0f,%.0f', prize[1], prize[2], prize[3], s.remaining)
  end
  redis.call('HSET', KEYS[1], 'log_seq', 0, 'log_hash', ARGV[1])
  log_move(KEYS[1], KEYS[3], table.concat(parts, ' '))
elseif ARGV[2] == 'closed' then
  log_move(KEYS[1], KEYS[3], 'close')
end
redis.call('HSET', KEYS[1], 'state', ARGV[2], 'log_end_id', redis.call('HGET', KEYS[1], 'last_outbox_id') or '0-0')
redis.call('PUBLISH', ARGV[3], ARGV[1])
return {MOVED, state}
