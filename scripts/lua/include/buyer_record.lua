-- A buyer's record in one campaign, one MessagePack value:
--   {tokens_u, refilled_us, {{order, fingerprint, sku, quantity, hold_no, held}, ...}}
-- order: 32 hex digits; held: 1 while the attempt holds stock, 2 once it is paid, 0 after its release.
-- Tokens are counted in millionths, so that no fraction is ever rounded.
local ORDER, FINGERPRINT, SKU, QUANTITY, HOLD_NO, HELD = 1, 2, 3, 4, 5, 6
local HELD_PAID = 2

local function read_buyer_record(packed)
  if not packed then return {false, false, {}} end
  local fine, record = pcall(cmsgpack.unpack, packed)
  if not fine or type(record) ~= 'table' or type(record[3]) ~= 'table' then return nil end
  for _, attempt in ipairs(record[3]) do
    if type(attempt) ~= 'table' or type(attempt[ORDER]) ~= 'string' or type(attempt[QUANTITY]) ~= 'number'
      or type(attempt[HOLD_NO]) ~= 'number' or type(attempt[HELD]) ~= 'number' then
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

local function is_held(attempt) return attempt[HELD] > 0 end

-- Units of a SKU that a buyer holds, how many of his orders, of any SKU, are not paid, and how many attempts he made.
local function holdings(record, sku)
  local units, unpaid = 0, 0
  for _, attempt in ipairs(record[3]) do
    if attempt[SKU] == sku and attempt[HELD] > 0 then units = units + attempt[QUANTITY] end
    if attempt[HELD] == 1 then unpaid = unpaid + 1 end
  end
  return units, unpaid, #record[3]
end

-- Pieces of MessagePack, so that a buyer's first attempt and an outbox item are joined rather than packed: an array of
-- 1, 3, 6 or 7 begins with one byte, and the numbers 0 to 127 are one byte.
local HOLD_1, HOLD_1_HELD, OUTBOX_ITEM = '\1', '\1\1', '\151'

local function new_record_head(tokens_u, refilled_us)
  return '\147' .. cmsgpack.pack(tokens_u) .. cmsgpack.pack(refilled_us) .. '\145\150'
end

local function array_head(length)
  return string.char(220, math.floor(length / 256), length % 256)
end
