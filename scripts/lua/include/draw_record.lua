-- A buyer's record in a lottery has a fourth part, his draws, in order; the attempts before it are those that won:
--   {tokens_u, refilled_us, {attempt, ...}, {draw, ...}}
-- A draw is one string: draw (32 hex), place of the prize (0: none), blank, number of the first line of its entry in
-- the log (by which another key has the entry's hash), blank, and how many lines after that one its own stands, in two
-- bytes of 7 bits.
local DRAWS = 4
local char = string.char

local function read_draw_record(packed)
  local record = read_buyer_record(packed)
  if not record then return nil end
  record[DRAWS] = record[DRAWS] or {}
  if type(record[DRAWS]) ~= 'table' then return nil end
  for _, draw in ipairs(record[DRAWS]) do
    if type(draw) ~= 'string' or not string.find(draw, '^%d+ %d+ ..$', 33) then return nil end
  end
  return record
end

-- Which of the buyer's draws it is, and place, number of its line and of its entry; nothing if there is none of that
-- name.
local function find_draw(record, id)
  for n, draw in ipairs(record[DRAWS]) do
    if string.sub(draw, 1, 32) == id then
      local place, entry = string.match(draw, '^(%d+) (%d+) ', 33)
      local high, low = string.byte(draw, -2, -1)
      return n, tonumber(place), entry + 128 * high + low, tonumber(entry)
    end
  end
  return nil
end

-- The end of a draw's string, by how many lines it stands after the first of its entry: below 16,384.
local function lines_after(count)
  local low = count % 128
  return char((count - low) / 128, low)
end

-- Pieces of MessagePack, so that a buyer's first draw is joined rather than packed; see buyer_record.lua.
local FOUR_PARTS, NOTHING_WON, WON, ONE_DRAW = '\148', '\144', '\145\150\217\32', '\145\217'
