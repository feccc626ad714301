-- One SKU's numbers, kept in the stock hash as unsigned big-endian numbers of 8 bytes (per_user: 4), 52 bytes in all:
--   remaining taken returned allocated epoch per_user price_cents
-- Always: allocated = remaining + taken - returned. The epoch rises when stock comes back. (Packed, because a batch that
-- speaks of many SKUs reads and writes many lines: as decimal text each costs three times as much.)
local STOCK_LINE, STOCK_LINE_BYTES = '>I8I8I8I8I8I4I8', 52

local function read_stock_line(line)
  if not line or #line ~= STOCK_LINE_BYTES then return nil end
  local remaining, taken, returned, allocated, epoch, per_user, price = struct.unpack(STOCK_LINE, line)
  return {remaining = remaining, taken = taken, returned = returned, allocated = allocated, epoch = epoch,
          per_user = per_user, price = price}
end

local function write_stock_line(s)
  return struct.pack(STOCK_LINE, s.remaining, s.taken, s.returned, s.allocated, s.epoch, s.per_user, s.price)
end
