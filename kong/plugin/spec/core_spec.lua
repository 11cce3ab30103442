-- The core library through LuaJIT's FFI, with answers of a service made by hand (crates/protocol/src/frame.rs).

local core = require "kong.plugins.idempotency.core"
local lib = core.lib

local CONFIG = [[{"service":{"target":"unix:/s","token":"secret-of-the-gateway"},"rules":[
  {"match":{"path_prefix":"/pay"},"scope":"global","wait_ms":1000},
  {"match":{"path_prefix":"/caller"},"scope":{"property":["kong","consumer","custom_id"]}}]}]]

local function head(changes)
  local of = {
    method = "POST", target = "/pay?x=1", authority = "api", client = "10.0.0.1", request_id = "r-1",
    fields = { { "Idempotency-Key", "k-1" }, { "X-Own", "a\0b" } }, properties = {},
  }
  for name, value in pairs(changes or {}) do
    of[name] = value
  end
  return of
end

-- A number as big-endian bytes.
local function big(number, size)
  local out = {}
  for i = size, 1, -1 do
    out[i] = string.char(number % 256)
    number = math.floor(number / 256)
  end
  return table.concat(out)
end

local function message(kind, payload)
  return "\2" .. big(3, 2) .. big(1, 2) .. string.char(kind) .. big(#payload, 4) .. payload
end

local GRANTED = message(1, big(7000000, 8) .. big(1, 4) .. big(60000, 8))
local IN_FLIGHT = message(3, big(5, 8) .. big(1000, 8))
local MISMATCH = message(4, "")
local COMPLETED = message(9, big(90000, 8))
local FAILED = message(11, "")
local TIMED_OUT = message(18, "")

-- What came of the pending operation, when the service answers so.
local function answer(config, req, status, body)
  local batch = core.batch(config)
  equal(lib.ig_batch_add(batch, req), 0)
  local sent = core.message(batch)
  equal(sent:byte(1), 2)
  equal(lib.ig_batch_answer(batch, status, body, #body), lib.IG_DONE)
  return lib.ig_request_answer(req, batch, 0), sent
end

local function begun(config, changes, body)
  local code, req = core.decide(config, head(changes))
  equal(code, lib.IG_BODY)
  for i = 1, #(body or "") do
    equal(lib.ig_request_body(req, body:sub(i, i), 1), lib.IG_BODY)
  end
  equal(lib.ig_request_begin(req), lib.IG_CALL)
  return req
end

test("a configuration tells where the service is, and what it asks for", function()
  local config = core.config(CONFIG)
  equal(config.errors, nil)
  equal(config.service.target, "unix:/s")
  equal(config.service.bearer, "Bearer secret-of-the-gateway")
  equal(config.service.operations_path, "/v1/operations")
  equal(config.service.max_in_flight, 4)
  equal(#config.properties, 1)
  equal(config.properties[1], "kong.consumer.custom_id")
end)

test("a rejected configuration says why, and refuses", function()
  local config = core.config('{"service":{"target":"unix:/s"},"rules":[{"match":{"path":"/a"},"scope":"x"}]}')
  equal(config.errors:match("^rules%[0%]%.scope") ~= nil, true, config.errors)
  local code, req = core.decide(config, head())
  equal(code, lib.IG_REPLY)
  equal(core.reply(req).status, 503)
  equal((core.decide(config, head({ method = "GET" }))), lib.IG_PASS)
end)

test("what is not protected costs no handle", function()
  local config = core.config(CONFIG)
  local code, req = core.decide(config, head({ target = "/other" }))
  equal(code, lib.IG_PASS)
  equal(req, nil)
  code, req = core.decide(config, head({ target = "/other", fields = { { "Idempotency-Fence", "1" } } }))
  equal(code, lib.IG_PASS)
  equal(core.fields(lib.ig_request_strip, req)[1][1], "idempotency-fence")
end)

test("a first request is executed and completed", function()
  local config = core.config(CONFIG)
  local req = begun(config, nil, "hello")
  equal((answer(config, req, 200, GRANTED)), lib.IG_EXECUTE)
  equal(lib.ig_request_pending(req), 0)
  local forwarded = {}
  for _, field in ipairs(core.fields(lib.ig_request_forwarded, req)) do
    forwarded[field[1]] = field[2]
  end
  equal(forwarded["x-own"], "a\0b")
  equal(forwarded["idempotency-fence"], "7000000")
  equal(lib.ig_request_renewal_ms(req) > 29000, true)
  equal(lib.ig_request_may_send(req), lib.IG_EXECUTE)
  equal(core.answered(req, 201, { { "Content-Type", "a/b" }, { "Connection", "x" }, { "Link", "1" }, { "Link", "2" } }),
        lib.IG_DELIVER)
  local passed = core.fields(lib.ig_request_passed, req)
  equal(#passed, 3)
  equal(passed[3][2], "2")
  equal(lib.ig_request_piece(req, "a\0b", 3), lib.IG_DONE)
  equal(lib.ig_request_ended(req, lib.IG_WHOLE), lib.IG_CALL)
  local code, sent = answer(config, req, 200, COMPLETED)
  equal(code, lib.IG_DELIVER)
  equal(sent:find("a\0b", 1, true) ~= nil, true)
  equal(core.fields(lib.ig_request_additions, req)[1][2], "@90")
end)

test("equal requests make equal operations, and a byte makes them differ", function()
  local config = core.config(CONFIG)
  local function fingerprint(body)
    local _, sent = answer(config, begun(config, nil, body), 200, MISMATCH)
    -- Behind the key (two empty strings, the origin, "k-1") and the owner.
    local at = 5 + 5 + 2 + 2 + 1 + 5 + 16
    return sent:sub(at + 1, at + 40)
  end
  equal(fingerprint("hello"), fingerprint("hello"))
  equal(fingerprint("hello") == fingerprint("hellp"), false)
end)

test("refusals have their status and their document", function()
  local config = core.config(CONFIG)
  local req = begun(config)
  equal((answer(config, req, 200, MISMATCH)), lib.IG_REPLY)
  local reply = core.reply(req)
  equal(reply.status, 422)
  equal(reply.fields[1][2], "application/problem+json")
  equal(reply.body:find('"type":"urn:idempotency-gateway:problem:key-reused"', 1, true) ~= nil, true)
  equal(core.text(lib.ig_request_why, req):match("^[%a-]+"), "key-reused")
  equal(#core.text(lib.ig_request_log_id, req), 12)
end)

test("an answer that never came is taken back, until the service says so", function()
  local config = core.config(CONFIG)
  local req = begun(config)
  equal((answer(config, req, 0, "")), lib.IG_REPLY)
  equal(core.reply(req).status, 503)
  equal(lib.ig_request_pending(req), 1)
  equal((answer(config, req, 503, "{}")), lib.IG_LATER)
  equal((answer(config, req, 200, FAILED)), lib.IG_DONE)
  equal(lib.ig_request_pending(req), 0)
end)

test("waits are told how long they may take", function()
  local config = core.config(CONFIG)
  local req = begun(config)
  equal((answer(config, req, 200, IN_FLIGHT)), lib.IG_WAIT)
  local wait, ms = core.wait(req)
  equal(wait:byte(1), 2)
  equal(ms > 900 and ms <= 1000, true, ms)
  equal(lib.ig_request_waited(req, 200, TIMED_OUT, #TIMED_OUT), lib.IG_REPLY)
  equal(core.reply(req).status, 409)
end)

test("several requests share a message, each with its own answer", function()
  local config = core.config(CONFIG)
  local one, other = begun(config), begun(config, nil, "other")
  local batch = core.batch(config)
  equal(lib.ig_batch_add(batch, one), 0)
  equal(lib.ig_batch_add(batch, other), 1)
  core.message(batch)
  local both = "\2" .. big(3, 2) .. big(2, 2) .. GRANTED:sub(6) .. MISMATCH:sub(6)
  equal(lib.ig_batch_answer(batch, 200, both, #both), lib.IG_DONE)
  equal(lib.ig_request_answer(one, batch, 0), lib.IG_EXECUTE)
  equal(lib.ig_request_answer(other, batch, 1), lib.IG_REPLY)
end)

test("a service of an earlier release is asked again in its version", function()
  local config = core.config(CONFIG)
  local req = begun(config)
  local batch = core.batch(config)
  lib.ig_batch_add(batch, req)
  equal(core.message(batch):byte(1), 2)
  equal(lib.ig_batch_answer(batch, 400, "{}", 2), lib.IG_AGAIN)
  equal(core.message(batch):byte(1), 1)
end)

test("what is given up is told as far as it came", function()
  local config = core.config(CONFIG)
  local req = begun(config)
  equal((answer(config, req, 200, GRANTED)), lib.IG_EXECUTE)
  equal(lib.ig_request_may_send(req), lib.IG_EXECUTE)
  equal(lib.ig_request_abort(req), lib.IG_CALL)
  local abandoned = message(12, "")
  equal((answer(config, req, 200, abandoned)), lib.IG_DONE)
end)

test("wrong orders and no handles refuse", function()
  local config = core.config(CONFIG)
  local req = begun(config)
  equal(lib.ig_request_may_send(req), lib.IG_REPLY)
  equal(core.reply(req).status, 503)
  equal(lib.ig_request_begin(nil), lib.IG_FAULT)
  equal((core.decide({}, head())), lib.IG_FAULT)
  equal(core.fault_reply().status, 503)
end)

test("handles are freed with what holds them", function()
  local config = core.config(CONFIG)
  for _ = 1, 20000 do
    core.decide(config, head())
  end
  collectgarbage()
  collectgarbage()
  local file = assert(io.open("/proc/self/statm"))
  local resident = tonumber(file:read("*a"):match("^%d+ (%d+)"))
  file:close()
  equal(resident * 4096 < 128 * 1024 * 1024, true, resident)
end)
