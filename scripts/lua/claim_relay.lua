-- Makes the caller the one relay of a campaign, or prolongs its ownership.
--
-- KEYS  1 relay  2 outbox  3 campaign
-- ARGV  1 the caller's nonce  2 how long a silent owner is respected, ms
-- Returns {code, checkpoint, entries in the outbox, newest outbox id ever written, the campaign's kind, empty: none}
-- Codes:
--    1 OWNED
--    0 OTHER_OWNER
local OWNED, OTHER_OWNER = 1, 0

local entries = redis.call('XLEN', KEYS[2])
local campaign = redis.call('HMGET', KEYS[3], 'last_outbox_id', 'kind')
local newest, kind = campaign[1] or '0-0', campaign[2] or ''
local relay = redis.call('HMGET', KEYS[1], 'owner', 'seen_ms', 'checkpoint')
local checkpoint = relay[3] or '0-0'
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
if relay[1] and relay[1] ~= ARGV[1] and now_ms - tonumber(relay[2]) < tonumber(ARGV[2]) then
  return {OTHER_OWNER, checkpoint, entries, newest, kind}
end
-- Where memory is out Redis refuses what may grow, unless a script has written before: only a relay makes room again.
redis.call('HDEL', KEYS[1], 'seen_ms')
redis.call('HSET', KEYS[1], 'owner', ARGV[1], 'seen_ms', now_ms)
return {OWNED, checkpoint, entries, newest, kind}
