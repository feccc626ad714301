-- The log of a lottery (domain/lottery.py). It grows by entries of some lines; an entry has the number of its first line
-- and a hash, which goes on from the hash of the entry before. A line is packed as MessagePack: \218, its length in two
-- bytes, its text.
local line_heads = {}

local function line_head(length)
  local head = line_heads[length]
  if not head then
    head = string.char(218, math.floor(length / 256), length % 256)
    line_heads[length] = head
  end
  return head
end

local function entry_hash(before, seq, lines)
  return redis.sha1hex(before .. string.format(' %.0f ', seq) .. lines)
end

-- Writes an entry of one line about units that came or went without a draw, where the campaign is a lottery that has
-- been opened. To be called before anything else is written: it fails where the outbox is none.
local function log_move(campaign, outbox, text)
  local c = redis.call('HMGET', campaign, 'log_seq', 'log_hash', 'last_outbox_id')
  if not c[1] then return end
  local time, seq, line = redis.call('TIME'), c[1] + 1, line_head(#text) .. text
  local hash = entry_hash(c[2], seq, line)
  local id = redis.call('XADD', outbox, '*', 't', time[1] * 1000 + math.floor(time[2] / 1000), 'p', c[3] or '0-0',
    'seq', seq, 'hash', hash, 'log', '\220\0\1' .. line)
  redis.call('HSET', campaign, 'log_seq', seq, 'log_hash', hash, 'last_outbox_id', id)
end
