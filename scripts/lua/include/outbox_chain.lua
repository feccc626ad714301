-- After a loss the outbox must not hand out ids again that Kafka already knows. Read first, moved on when all is checked.
local function is_after(id, other)
  local ms, seq = string.match(id, '^(%d+)-(%d+)$')
  local other_ms, other_seq = string.match(other, '^(%d+)-(%d+)$')
  return tonumber(ms) > tonumber(other_ms) or (ms == other_ms and tonumber(seq) > tonumber(other_seq))
end

local function read_outbox_chain(campaign, outbox)
  local chain = {campaign = campaign, outbox = outbox, top = '0-0'}
  chain.newest = redis.call('HGET', campaign, 'last_outbox_id') or '0-0'
  local info = redis.call('EXISTS', outbox) == 1 and redis.call('XINFO', 'STREAM', outbox) or {}
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then chain.top = info[i + 1] end
  end
  return chain
end

-- An entry without orders (\144: an empty array) takes the newest id, and keeps the chain of entries whole.
local function move_outbox_on(chain, newest)
  if not is_after(newest, chain.newest) then return end
  if is_after(newest, chain.top) then
    redis.call('XADD', chain.outbox, newest, 't', 0, 'p', chain.newest, 'orders', '\144')
  end
  redis.call('HSET', chain.campaign, 'last_outbox_id', newest)
end
