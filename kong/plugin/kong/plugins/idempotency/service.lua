-- Calls to the idempotency service: kept connections, operations of several requests in one message, and what nobody
-- waits for.

local core = require "kong.plugins.idempotency.core"
local http = require "kong.plugins.idempotency.http"
local semaphore = require "ngx.semaphore"

local ngx = ngx
local lib = core.lib

local _M = {}

-- How long a connection to the service is kept without work, and how many a worker keeps.
local IDLE_MS = 30000
local POOL = 64
-- How long what nobody waits for is tried: the service may be down for longer than a lease, and a late complete still
-- counts if nobody took the key. In seconds.
local PATIENCE = 15 * 60
local FIRST_PAUSE, LAST_PAUSE = 0.1, 5
local MAX_WAITING = 4096

_M.waiting = 0

local function connect(service)
  local sock = ngx.socket.tcp()
  sock:settimeouts(service.timeout_ms, service.timeout_ms, service.timeout_ms)
  local options = { pool = "idempotency:" .. (service.tls and "tls:" or "") .. service.target, pool_size = POOL }
  local ok, err
  local path = service.target:match("^unix:(.+)$")
  if path then
    ok, err = sock:connect("unix:" .. path, options)
  else
    -- (Addresses of IPv6 stand in brackets, as nginx wants them.)
    local host, port = service.target:match("^(.+):(%d+)$")
    host = host or service.target
    ok, err = sock:connect(_M.resolve(host), tonumber(port) or (service.tls and 443 or 80), options)
  end
  if not ok then
    return nil, err
  end
  if service.tls and sock:getreusedtimes() == 0 then
    -- Against lua_ssl_trusted_certificate, by the name in `authority`.
    ok, err = sock:sslhandshake(nil, (service.authority:gsub(":%d+$", "")), true)
    if not ok then
      sock:close()
      return nil, err
    end
  end
  return sock
end

-- The address of a host name, by Kong's own client where that is there.
function _M.resolve(host)
  local ok, dns = pcall(require, "kong.resty.dns.client")
  if ok and type(dns.toip) == "function" and host:find("%a") and not host:find(":", 1, true) then
    return (dns.toip(host)) or host
  end
  return host
end

-- One try: status and body; nil, why, and whether the connection was one that had waited.
local function try(service, path, message, timeout_ms)
  local sock, err = connect(service)
  if not sock then
    return nil, err, false
  end
  local reused = sock:getreusedtimes() > 0
  sock:settimeouts(service.timeout_ms, service.timeout_ms, timeout_ms)
  local fields = {
    { "Host", service.authority },
    { "Content-Type", service.content_type },
    { "Content-Length", tostring(#message) },
  }
  if service.bearer ~= "" then
    fields[#fields + 1] = { "Authorization", service.bearer }
  end
  local head = http.head("POST", path, fields)
  local sent
  sent, err = sock:send({ head, message })
  local answer
  if sent then
    answer, err = http.read_head(sock, "POST")
  end
  if not answer then
    sock:close()
    return nil, err, reused and err ~= "timeout"
  end
  local pieces = {}
  local whole, why = http.read_body(sock, answer, function(piece)
    pieces[#pieces + 1] = piece
  end, function() end)
  if not whole then
    sock:close()
    return nil, why, false
  end
  if answer.kept then
    sock:setkeepalive(IDLE_MS, POOL)
  else
    sock:close()
  end
  return answer.status, table.concat(pieces)
end

-- Calls the service: status and body. Status 0: no answer. An operation may arrive twice without harm, so one whose
-- kept connection turns out to be dead is sent again.
function _M.call(service, path, message, timeout_ms)
  local status, body, stale = try(service, path, message, timeout_ms)
  if not status and stale then
    status, body = try(service, path, message, timeout_ms)
  end
  if not status then
    ngx.log(ngx.WARN, "idempotency: no answer of the service: ", body)
    return 0, ""
  end
  return status, body
end

local function send(config, batch)
  local service = config.service
  for _ = 1, 2 do
    local status, body = _M.call(service, service.operations_path, core.message(batch), service.timeout_ms)
    if lib.ig_batch_answer(batch, status, body, #body) ~= lib.IG_AGAIN then
      return
    end
  end
  lib.ig_batch_answer(batch, 0, "", 0)
end

-- What waits for room, and how much is out, of one configuration.
local function lane_of(config)
  local lane = config.lane
  if not lane then
    lane = { out = 0, first = 1, last = 0 }
    config.lane = lane
  end
  return lane
end

local function pop(lane)
  while lane.first <= lane.last do
    local entry = lane[lane.first]
    lane[lane.first] = nil
    lane.first = lane.first + 1
    if not entry.gone then
      return entry
    end
  end
end

local function push(lane, entry)
  lane.last = lane.last + 1
  lane[lane.last] = entry
end

-- Sends the operation of `own`, and those that wait, as many as have room beside it.
local function carry(config, lane, own)
  local batch = core.batch(config)
  local most = config.service.max_in_flight > 0 and config.service.max_operations or 1
  local entries = own.entries
  own.place = batch and lib.ig_batch_add(batch, own.req) or lib.IG_FAULT
  while own.place >= 0 and #entries < most do
    local entry = pop(lane)
    if not entry then
      break
    end
    entry.place = lib.ig_batch_add(batch, entry.req)
    if entry.place == lib.IG_FULL then
      -- To its place in front of the others.
      lane.first = lane.first - 1
      lane[lane.first] = entry
      break
    end
    entry.taken = true
    entries[#entries + 1] = entry
  end
  if own.place >= 0 then
    send(config, batch)
  end
  for i = 1, #entries do
    local entry = entries[i]
    entry.code = entry.place >= 0 and lib.ig_request_answer(entry.req, batch, entry.place) or lib.IG_FAULT
  end
end

-- Waits for a turn: the code if somebody has carried it, nil if it is its own turn now.
local function wait_for_turn(config, lane, own)
  own.sema = semaphore.new(0)
  push(lane, own)
  -- Whoever carries it ends within its timeout, or hands over.
  local patience = 2 * config.service.timeout_ms / 1000 + 1
  while not own.sema:wait(patience) do
    if not own.taken and not own.woken then
      own.gone = true
      local batch = core.batch(config)
      local place = batch and lib.ig_batch_add(batch, own.req) or lib.IG_FAULT
      if place < 0 then
        return lib.IG_FAULT
      end
      lib.ig_batch_answer(batch, 0, "", 0)
      return lib.ig_request_answer(own.req, batch, place)
    end
    if own.woken then
      break
    end
  end
  return own.code
end

-- Sends the pending operation of a request, and says what its answer means.
function _M.exchange(config, req)
  local lane = lane_of(config)
  local own = { req = req }
  own.entries = { own }
  local most = config.service.max_in_flight
  if most > 0 and lane.out >= most then
    local code = wait_for_turn(config, lane, own)
    if code then
      return code
    end
    -- The room of the one before is its own.
  else
    lane.out = lane.out + 1
  end
  local ok, err = pcall(carry, config, lane, own)
  if not ok then
    ngx.log(ngx.ERR, "idempotency: a call to the service failed: ", err)
  end
  for i = 1, #own.entries do
    local entry = own.entries[i]
    entry.code = entry.code or lib.IG_FAULT
    if entry ~= own then
      entry.sema:post(1)
    end
  end
  local next_one = pop(lane)
  if next_one then
    next_one.woken = true
    next_one.sema:post(1)
  else
    lane.out = lane.out - 1
  end
  return own.code
end

-- Waits for an execution that is in flight, and says what came of it.
function _M.wait(config, req)
  local service = config.service
  for _ = 1, 2 do
    local message, wait_ms = core.wait(req)
    local status, body = 0, ""
    if message then
      status, body = _M.call(service, service.wait_path, message, service.timeout_ms + wait_ms)
    end
    local code = lib.ig_request_waited(req, status, body, #body)
    if code ~= lib.IG_AGAIN then
      return code
    end
  end
  return lib.ig_request_waited(req, 0, "", 0)
end

local function deliver(premature, config, req)
  local until_when = ngx.now() + PATIENCE
  local pause = FIRST_PAUSE
  local tries = 0
  while lib.ig_request_pending(req) == 1 do
    local code = _M.exchange(config, req)
    if code ~= lib.IG_LATER then
      break
    end
    tries = tries + 1
    -- A worker that ends waits for nobody much longer.
    local leaving = premature or ngx.worker.exiting()
    if ngx.now() > until_when or (leaving and tries > 5) then
      ngx.log(ngx.ERR, "idempotency: an outcome could not be delivered, and ends unknown: ",
              core.text(lib.ig_request_log_id, req))
      break
    end
    ngx.sleep(pause)
    pause = math.min(pause * 2, LAST_PAUSE)
  end
  _M.waiting = _M.waiting - 1
end

-- Delivers what is pending of a request, again and again, while nobody waits.
function _M.background(config, req)
  if lib.ig_request_pending(req) ~= 1 then
    return
  end
  if _M.waiting >= MAX_WAITING then
    ngx.log(ngx.ERR, "idempotency: too much waits for the service; an outcome ends unknown: ",
            core.text(lib.ig_request_log_id, req))
    return
  end
  _M.waiting = _M.waiting + 1
  local ok, err = ngx.timer.at(0, deliver, config, req)
  if not ok then
    _M.waiting = _M.waiting - 1
    ngx.log(ngx.ERR, "idempotency: an outcome could not be delivered, and ends unknown: ", err)
  end
end

_M.send = send

return _M
