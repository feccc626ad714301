-- One SKU's numbers, kept as decimal text in the stock hash:
--   remaining taken returned allocated epoch per_user price_cents
-- Always: allocated = remaining + taken - returned. The epoch rises when stock comes back.
local function read_stock_line(text)
  if not text then return nil end
  local remaining, taken, returned, allocated, epoch, per_user, price =
    string.match(text, '^(%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+)$')
  if not remaining then return nil end
  return {remaining = tonumber(remaining), taken = tonumber(taken), returned = tonumber(returned),
          allocated = tonumber(allocated), epoch = tonumber(epoch), per_user = tonumber(per_user),
          price = tonumber(price)}
end

local function write_stock_line(s)
  return string.format('%d %d %d %d %d %d %d',
    s.remaining, s.taken, s.returned, s.allocated, s.epoch, s.per_user, s.price)
end
