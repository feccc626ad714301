-- The prizes of a lottery as a batch of draws needs them, from the campaign's table, JSON [[sku, weight, points,
-- fingerprint], ...] and the stock: p.list, and p.none, which is won where no prize is. p.ends: where the stretch of
-- each prize ends, p.won: where the last one does, p.total: where that of "no prize" does. p.corrupt: a prize's stock
-- cannot be read.
local function measure_prizes(p)
  local won = 0
  for place, prize in ipairs(p.list) do
    if prize.stock.remaining > 0 then won = won + prize.weight end
    p.ends[place] = won
  end
  p.won, p.total = won, won + p.none.weight
end

local function read_prizes(stock_key, table_json, no_prize_weight)
  local none = {place = 0, weight = no_prize_weight, line = ' 0  '}
  local p, skus = {list = cjson.decode(table_json), none = none, ends = {}, stock = {}}, {}
  for place, prize in ipairs(p.list) do skus[place] = prize[1] end
  local lines = redis.call('HMGET', stock_key, unpack(skus))
  for place, prize in ipairs(p.list) do
    local sku, weight, points, fingerprint = unpack(prize)
    local s = read_stock_line(lines[place])
    p.corrupt = p.corrupt or not s
    p.list[place] = {place = place, sku = sku, weight = weight, fingerprint = fingerprint, stock = s,
      line = ' ' .. points .. ' ' .. sku .. ' '}
    p.stock[sku] = s
  end
  if not p.corrupt then measure_prizes(p) end
  return p
end

-- What a draw wins: its number is the first 48 bits of the SHA-1 of u and n, of which this has the hex digits. The
-- number is below 2^48 and the total below 2^37, so that all of this is exact.
local tonumber, sub = tonumber, string.sub

local function pick_prize(p, digest)
  local number, ends = tonumber(sub(digest, 1, 12), 16) % p.total, p.ends
  if number >= p.won then return p.none end
  for place = 1, #ends do
    if number < ends[place] then return p.list[place] end
  end
end

-- What a batch's first draws that win it have in common. Such a record is joined: head, draw, where it is a prize the
-- rest of the attempt and the draw again, tail, and where it stands in its entry. See draw_record.lua.
local function dress_prize(prize, first_of_buyer, first_seq, accepted)
  local pack, won = cmsgpack.pack, prize.stock
  prize.first_line, prize.told = ' 1' .. prize.line, pack(accepted, 1, prize.place)
  prize.length, prize.tail = #'draw ' + 32 + #prize.first_line, prize.place .. ' ' .. first_seq .. ' '
  local one_draw = ONE_DRAW .. char(32 + #prize.tail + 2)
  prize.head = first_of_buyer .. (won and WON or NOTHING_WON .. one_draw)
  prize.middle = won and pack(prize.fingerprint) .. pack(prize.sku) .. '\1\1\2' .. one_draw
end

local function take_prize(p, prize)
  local s = prize.stock
  s.remaining, s.taken = s.remaining - 1, s.taken + 1
  if s.remaining == 0 then measure_prizes(p) end
  return s
end
