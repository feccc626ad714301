-- A token bucket counted in millionths of a token: `per_s` tokens a second are `per_s` millionths a microsecond,
-- so refilling is exact in integers. A clock that steps back adds nothing and takes nothing.
local TOKEN = 1000000

local function refilled(tokens_u, refilled_us, per_s, burst, now_us)
  local full = burst * TOKEN
  if not tokens_u or not refilled_us then return full, now_us end
  if now_us <= refilled_us then return math.min(tokens_u, full), now_us end
  return math.min(full, tokens_u + per_s * (now_us - refilled_us)), now_us
end

local function wait_ms(tokens_u, per_s)
  return math.max(1, math.ceil((TOKEN - tokens_u) / per_s / 1000))
end
