-- Requests of one run, and what came of them. The marks between @ are filled in by the bench.

local unique = @UNIQUE@
local keys = @KEYS@
local path = "@PATH@"
local body = string.rep("b", @REQUEST_BYTES@)
local tail = "\r\n\r\n" .. body

local threads = {}

function setup(thread)
  thread:set("id", #threads)
  table.insert(threads, thread)
end

function init()
  head = "@METHOD@ " .. path .. " HTTP/1.1\r\nHost: bench.invalid\r\n" ..
    "Content-Type: application/json\r\nContent-Length: " .. #body ..
    "\r\nIdempotency-Key: @PREFIX@"
  if unique then
    head = head .. id .. "-"
  end
  sent = 0
  expected = 0
  others = {}
end

function request()
  sent = sent + 1
  return head .. (unique and sent or sent % keys) .. tail
end

function response(status, headers, content)
  if status == @STATUS@ and #content == @RESPONSE_BYTES@ then
    expected = expected + 1
  else
    local seen = tostring(status)
    others[seen] = (others[seen] or 0) + 1
  end
end

function done(summary, latency)
  local good, bad = 0, {}
  for _, thread in ipairs(threads) do
    good = good + thread:get("expected")
    for status, count in pairs(thread:get("others")) do
      bad[status] = (bad[status] or 0) + count
    end
  end
  local unexpected = {}
  for status, count in pairs(bad) do
    table.insert(unexpected, string.format('"%s":%d', status, count))
  end
  local errors = summary.errors
  local times = {}
  for _, share in ipairs({@SHARES@}) do
    table.insert(times, string.format("%d", latency:percentile(share)))
  end
  local file = assert(io.open("@OUTPUT@", "w"))
  file:write(string.format(
    '{"requests":%d,"duration_us":%d,"expected":%d,"unexpected":{%s},' ..
    '"socket_errors":%d,"timeouts":%d,"latency_us":[%s]}',
    summary.requests, summary.duration, good, table.concat(unexpected, ","),
    errors.connect + errors.read + errors.write, errors.timeout,
    table.concat(times, ",")))
  file:close()
end
