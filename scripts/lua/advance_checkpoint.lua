-- After Kafka has acknowledged: moves the relay's checkpoint, trims the outbox below it and tells who waits.
-- Only the owner may: a relay that was paused and wakes up beside its successor changes nothing.
--
-- KEYS  1 relay  2 outbox  3 campaign
-- ARGV  1 the caller's nonce  2 outbox id that is in Kafka, all before it too  3 the id after it
--       4 campaign id  5 channel of watermarks
-- Returns {code, entries left in the outbox}
-- Codes:
--    1 ADVANCED
--    0 NOT_OWNER
--   -1 BACKWARDS
local ADVANCED, NOT_OWNER, BACKWARDS = 1, 0, -1

local function parts(id)
  local ms, seq = string.match(id, '^(%d+)-(%d+)$')
  return tonumber(ms), tonumber(seq)
end

local relay = redis.call('HMGET', KEYS[1], 'owner', 'checkpoint')
if relay[1] ~= ARGV[1] then return {NOT_OWNER, 0} end
local left = redis.call('XLEN', KEYS[2])
local ms, seq = parts(ARGV[2])
local at_ms, at_seq = parts(relay[2] or '0-0')
if ms < at_ms or (ms == at_ms and seq < at_seq) then return {BACKWARDS, left} end
local time = redis.call('TIME')
-- What only makes room comes first: where memory is out Redis refuses the other, unless a script has written before.
left = left - redis.call('XTRIM', KEYS[2], 'MINID', '=', ARGV[3])
redis.call('HSET', KEYS[1], 'checkpoint', ARGV[2], 'seen_ms', time[1] * 1000 + math.floor(time[2] / 1000))
local run_id = redis.call('HGET', KEYS[3], 'run_id')
if run_id then redis.call('PUBLISH', ARGV[5], ARGV[4] .. ' ' .. ARGV[2] .. ' ' .. run_id) end
return {ADVANCED, left}
