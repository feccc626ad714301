-- wrk's part of `flashgate bench compare`: every request is another buyer's order, with a token not used before.
--
-- After `--`: file of tokens (one a line), number of threads, bodies (one a line), start of the Idempotency-Keys, file for
-- the result, spare tokens of each thread. Thread i of n takes the lines i, i + n, … When the first of them has used up
-- its part but for the spare ones, the run ends; until wrk has noticed, its other connections use those.
local ffi = require('ffi')
ffi.cdef 'int getpid(void); int kill(int pid, int sig);'
local SIGINT = 2

local threads = {}

function setup(thread)
  thread:set('number', #threads)
  table.insert(threads, thread)
end

function init(args)
  local tokens_file, count, bodies, keys = args[1], tonumber(args[2]), args[3], args[4]
  result_file = args[5]
  tokens = {}
  local line_number = 0
  for line in io.lines(tokens_file) do
    if line_number % count == number then tokens[#tokens + 1] = line end
    line_number = line_number + 1
  end
  last = #tokens - tonumber(args[6])
  assert(last > 0, 'no tokens for a thread')
  heads, tails = {}, {}
  for body in bodies:gmatch('[^\n]+') do
    heads[#heads + 1] = 'POST /v1/orders HTTP/1.1\r\nHost: ' .. wrk.headers['Host']
      .. '\r\nContent-Type: application/json\r\nContent-Length: ' .. #body .. '\r\nIdempotency-Key: ' .. keys .. number .. '-'
    tails[#tails + 1] = '\r\n\r\n' .. body
  end
  sent = 0
  probed = number ~= 0 -- wrk calls request() once in the first thread without sending it
end

function request()
  if not probed then
    probed = true
    return heads[1] .. '0\r\nAuthorization: Bearer ' .. tokens[1] .. tails[1]
  end
  sent = sent + 1
  if sent == last then -- this one is still sent
    wrk.thread:stop()
    ffi.C.kill(ffi.C.getpid(), SIGINT)
  end
  local kind = sent % #heads + 1
  return heads[kind] .. sent .. '\r\nAuthorization: Bearer ' .. assert(tokens[sent], 'no tokens left') .. tails[kind]
end

function done(summary, latency, requests)
  local total = 0
  for _, thread in ipairs(threads) do total = total + thread:get('sent') end
  local errors = summary.errors
  local file = assert(io.open(threads[1]:get('result_file'), 'w'))
  file:write(string.format(
    '{"sent":%d,"answered":%d,"above_399":%d,"seconds":%.6f,"p50_us":%d,"p99_us":%d,"max_us":%d,'
      .. '"connect_errors":%d,"read_errors":%d,"write_errors":%d,"timeouts":%d}\n',
    total, summary.requests, errors.status, summary.duration / 1e6, latency:percentile(50), latency:percentile(99),
    latency.max, errors.connect, errors.read, errors.write, errors.timeout))
  file:close()
end
