-- A buyer's record in a lottery has a fourth part, his draws, in order; the attempts before it are those that won:
--   {tokens_u, refilled_us, {attempt, ...}, {draw, ...}}
-- A draw is one string: draw (32 hex), place of the prize (0: none), blank, number of its line in the log, blank, number
-- of the first line of its entry there, by which another key has the entry's hash.
local DRAWS = 4

local function read_draw_record(packed)
  local record = read_buyer_record(packed)
  if not record then return nil end
  record[DRAWS] = record[DRAWS] or {}
  if type(record[DRAWS]) ~= 'table' then return nil end
  for _, draw in ipairs(record[DRAWS]) do
    if type(draw) ~= 'string' or not string.find(draw, '^%d+ %d+ %d+$', 33) then return nil end
  end
  return record
end

-- Which of the buyer's draws it is, and place, number and entry of it; nothing if there is none of that name.
local function find_draw(record, id)
  for n, draw in ipairs(record[DRAWS]) do
    if string.sub(draw, 1, 32) == id then
      local place, seq, entry = string.match(draw, '^(%d+) (%d+) (%d+)$', 33)
      return n, tonumber(place), tonumber(seq), tonumber(entry)
    end
  end
  return nil
end

-- Pieces of MessagePack, so that a buyer's first draw is joined rather than packed; see buyer_record.lua.
local FOUR_PARTS, NOTHING_WON, WON, ONE_DRAW = '\148', '\144', '\145\150\217\32', '\145\217'
