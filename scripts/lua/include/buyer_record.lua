-- A buyer's record in one campaign, one MessagePack value:
--   {tokens_u, refilled_us, {{order, fingerprint, sku, quantity, hold_no, held}, ...}}
-- order: 32 hex digits; held: 1 while the attempt holds stock, 0 after its release.
-- Tokens are counted in millionths, so that no fraction is ever rounded.
local ORDER, FINGERPRINT, SKU, QUANTITY, HOLD_NO, HELD = 1, 2, 3, 4, 5, 6

local function read_buyer_record(packed)
  if not packed then return {false, false, {}} end
  local fine, record = pcall(cmsgpack.unpack, packed)
  if not fine or type(record) ~= 'table' or type(record[3]) ~= 'table' then return nil end
  for _, attempt in ipairs(record[3]) do
    if type(attempt) ~= 'table' or type(attempt[ORDER]) ~= 'string' or type(attempt[QUANTITY]) ~= 'number'
      or type(attempt[HOLD_NO]) ~= 'number' then
      return nil
    end
  end
  if record[1] and (type(record[1]) ~= 'number' or type(record[2]) ~= 'number') then return nil end
  return record
end

local function find_attempt(record, order)
  for _, attempt in ipairs(record[3]) do
    if attempt[ORDER] == order then return attempt end
  end
  return nil
end

local function units_held(record, sku)
  local units = 0
  for _, attempt in ipairs(record[3]) do
    if attempt[SKU] == sku and attempt[HELD] == 1 then units = units + attempt[QUANTITY] end
  end
  return units
end
