-- The prizes of a lottery as a batch of draws needs them, from the campaign's table, JSON [[sku, weight, points,
-- fingerprint], ...] and the stock: the list, and p.total, the summed weights of what may be drawn. p.corrupt: a
-- prize's stock cannot be read.
local function read_prizes(stock_key, table_json, no_prize_weight)
  local p = {list = cjson.decode(table_json), total = no_prize_weight, stock = {}, corrupt = false}
  local skus = {}
  for place, prize in ipairs(p.list) do skus[place] = prize[1] end
  local lines = redis.call('HMGET', stock_key, unpack(skus))
  for place, prize in ipairs(p.list) do
    local sku, weight, points, fingerprint = unpack(prize)
    local s = read_stock_line(lines[place])
    if s then
      p.list[place] = {place = place, sku = sku, weight = weight, fingerprint = fingerprint, stock = s,
        line = ' ' .. points .. ' ' .. sku .. ' ', attempt = cmsgpack.pack(fingerprint) .. cmsgpack.pack(sku) .. '\1\1\2'}
      p.stock[sku] = s
      if s.remaining > 0 then p.total = p.total + weight end
    else
      p.corrupt = true
    end
  end
  return p
end

local sha1hex, sub = redis.sha1hex, string.sub
local NO_PRIZE = {place = 0, line = ' 0  '}

-- What a user's n-th draw wins. The number is below 2^48 and the total below 2^37, so that all of this is exact.
local function pick_prize(p, u, n)
  local place = tonumber(sub(sha1hex(u .. n), 1, 12), 16) % p.total
  for _, prize in ipairs(p.list) do
    if prize.stock.remaining > 0 then
      if place < prize.weight then return prize end
      place = place - prize.weight
    end
  end
  return NO_PRIZE
end

local function take_prize(p, prize)
  local s = prize.stock
  s.remaining, s.taken = s.remaining - 1, s.taken + 1
  if s.remaining == 0 then p.total = p.total - prize.weight end
end
