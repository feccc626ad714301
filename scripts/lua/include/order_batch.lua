-- A batch of orders as it comes packed, and the stock that it speaks of.
local function read_orders(packed)
  local orders, ids, prints, skus, quantities = cmsgpack.unpack(packed), {}, {}, {}, {}
  for i = 1, #orders / 2 do
    ids[i], prints[i], skus[i], quantities[i] = cmsgpack.unpack(orders[2 * i - 1])
  end
  return orders, ids, prints, skus, quantities
end

-- SKU → its line, 'corrupt', or false where there is none.
local function read_stock(key, skus)
  local stock, wanted = {}, {}
  for _, sku in ipairs(skus) do
    if stock[sku] == nil then
      stock[sku] = false
      wanted[#wanted + 1] = sku
    end
  end
  for i, text in ipairs(redis.call('HMGET', key, unpack(wanted))) do
    if text then stock[wanted[i]] = read_stock_line(text) or 'corrupt' end
  end
  return stock
end

local function stock_lines(stock, skus)
  local lines = {}
  for sku in pairs(skus) do
    lines[#lines + 1] = sku
    lines[#lines + 1] = write_stock_line(stock[sku])
  end
  return lines
end

local function sold_out(stock)
  local found = {}
  for sku, s in pairs(stock) do
    if s and s ~= 'corrupt' and s.remaining == 0 then
      found[#found + 1] = sku
      found[#found + 1] = s.epoch
    end
  end
  return found
end

-- The hashes, 8 bytes each, that stand at these places.
local function hashes_at(hashes, places)
  if 8 * #places == #hashes then return hashes end
  local found = {}
  for n, i in ipairs(places) do found[n] = string.sub(hashes, 8 * i - 7, 8 * i) end
  return table.concat(found)
end
