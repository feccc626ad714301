-- Makes the caller the one relay of a campaign, or prolongs its ownership.
--
-- KEYS  1 relay  2 outbox
-- ARGV  1 the caller's nonce  2 how long a silent owner is respected, ms
-- Returns {code, checkpoint, entries in the outbox}
-- Codes:
--    1 OWNED
--    0 OTHER_OWNER
local OWNED, OTHER_OWNER = 1, 0

local entries = redis.call('XLEN', KEYS[2])
local relay = redis.call('HMGET', KEYS[1], 'owner', 'seen_ms', 'checkpoint')
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
if relay[1] and relay[1] ~= ARGV[1] and now_ms - tonumber(relay[2]) < tonumber(ARGV[2]) then
  return {OTHER_OWNER, relay[3] or '0-0', entries}
end
redis.call('HSET', KEYS[1], 'owner', ARGV[1], 'seen_ms', now_ms)
return {OWNED, relay[3] or '0-0', entries}
