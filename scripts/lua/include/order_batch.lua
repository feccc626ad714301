-- A SKU's line as a batch needs it, 'corrupt', or false where there is none.
local function read_line_to_sell(line)
  if not line then return false end
  local s = read_stock_line(line)
  if not s then return 'corrupt' end
  s.price_and_hold = cmsgpack.pack(s.price) .. HOLD_1
  return s
end

-- The lines of what was sold, as HSET takes them.
local function lines_sold(taken)
  local lines, n = {}, 0
  for sku, s in pairs(taken) do
    lines[n + 1], lines[n + 2], n = sku, write_stock_line(s), n + 2
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

-- The hashes, 8 bytes each, that stand at these places out of so many.
local function hashes_at(hashes, places, count)
  if #places == count then return hashes end
  local found = {}
  for n, i in ipairs(places) do found[n] = string.sub(hashes, 8 * i - 7, 8 * i) end
  return table.concat(found)
end
