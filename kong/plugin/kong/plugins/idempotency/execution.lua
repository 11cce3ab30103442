-- The life of a protected request: the core library decides, and this does what it says.

local answer = require "kong.plugins.idempotency.answer"
local core = require "kong.plugins.idempotency.core"
local http = require "kong.plugins.idempotency.http"
local leases = require "kong.plugins.idempotency.leases"
local metrics = require "kong.plugins.idempotency.metrics"
local request = require "kong.plugins.idempotency.request"
local service = require "kong.plugins.idempotency.service"
local upstream = require "kong.plugins.idempotency.upstream"

local ngx = ngx
local lib = core.lib

local _M = {}

-- Answers of known length up to this are held whole: the client sees nothing before the record is stored, and the
-- record's expiry travels in a header.
local HOLD = 65536

local function reply(req)
  local made = core.reply(req)
  made.refused = true
  return made
end

-- Whether an answer is kept from the client until it is recorded.
local function is_held(req, got)
  if lib.ig_request_streams(req) == 1 then
    return false
  end
  if got.framing == "none" then
    return true
  end
  local kind = http.field(got.fields, "content-type") or ""
  return got.framing == "length" and got.length <= HOLD and kind:lower():find("text/event-stream", 1, true) ~= 1
end

-- Settles with the service while the client waits.
local function settle(config, req)
  local code = service.exchange(config, req)
  while code == lib.IG_CALL do
    code = service.exchange(config, req)
  end
  return code
end

-- Executes under a grant: what the client gets, as { status, fields, body }, or { stream = …, cut = … } where it has
-- its beginning already.
local function execute(config, req, body)
  local unsupported = upstream.unsupported()
  local sock, peer
  if unsupported then
    ngx.log(ngx.ERR, "idempotency: ", unsupported)
    peer = { status = 503, fields = {}, body = unsupported }
  else
    sock, peer = upstream.connect()
  end
  local head
  if sock then
    local refused
    head, refused = upstream.head(req, peer, body)
    if not head then
      sock:close()
      sock, peer = nil, refused
    end
  end
  if not sock then
    lib.ig_request_unreachable(req)
    metrics.count("not_sent", req)
    if settle(config, req) == lib.IG_DELIVER then
      return peer
    end
    return reply(req)
  end
  if lib.ig_request_may_send(req) ~= lib.IG_EXECUTE then
    sock:close()
    return reply(req)
  end
  metrics.count("executed", req)
  local got, cut = upstream.send(sock, peer, head, body)
  if not got then
    lib.ig_request_unanswered(req, cut)
    metrics.count("unknown", req)
    settle(config, req)
    return reply(req)
  end
  core.answered(req, got.status, got.fields)
  local passed = core.fields(lib.ig_request_passed, req)
  local pieces, stream = {}, nil
  if not is_held(req, got) then
    stream = answer.stream(got.status, passed, got.length)
  end
  local how = upstream.read(sock, peer, got, req, function(piece)
    if stream then
      stream:piece(piece)
    else
      pieces[#pieces + 1] = piece
    end
  end)
  lib.ig_request_ended(req, how)
  local code = settle(config, req)
  if code ~= lib.IG_DELIVER then
    metrics.count(how == lib.IG_WHOLE and "withheld" or "unknown", req)
  end
  if stream then
    return { stream = stream, cut = code ~= lib.IG_DELIVER }
  end
  if code ~= lib.IG_DELIVER then
    return reply(req)
  end
  for _, field in ipairs(core.fields(lib.ig_request_additions, req)) do
    passed[#passed + 1] = field
  end
  return { status = got.status, fields = passed, body = table.concat(pieces) }
end

-- From the fingerprint to the decision: nil where the request goes on as it is.
local function protect(config, req, code)
  local body
  if code == lib.IG_BODY then
    code, body = request.body(req)
  end
  if code == lib.IG_BODY then
    code = lib.ig_request_begin(req)
  end
  while true do
    if code == lib.IG_CALL then
      code = service.exchange(config, req)
    elseif code == lib.IG_WAIT then
      metrics.count("waited", req)
      code = service.wait(config, req)
    elseif code == lib.IG_EXECUTE then
      leases.track(config, req)
      return execute(config, req, body)
    elseif code == lib.IG_REPLY then
      return reply(req)
    elseif code == lib.IG_RELAY then
      -- Another gateway's execution: nginx sends it on, with what names it, and not again.
      if ngx.ctx.balancer_data then
        ngx.ctx.balancer_data.retries = 0
      end
      for _, field in ipairs(core.fields(lib.ig_request_forwarded, req)) do
        if field[1]:sub(1, 12) == "idempotency-" then
          ngx.req.set_header(field[1], field[2])
        end
      end
      metrics.count("relayed", req)
      return nil
    elseif code == lib.IG_PASS then
      return nil
    else
      error("the core library answered " .. tostring(code))
    end
  end
end

-- Tells of a refusal, and counts what became of the request.
local function tell(req, made)
  local why = core.text(lib.ig_request_why, req)
  if why == "" then
    if made.refused then
      metrics.count("replayed", req)
    end
    return
  end
  local word = why:match("^[%a-]+") or "refused"
  metrics.count(word:gsub("-", "_"), req)
  local level = made.status >= 500 and ngx.WARN or ngx.INFO
  ngx.log(level, "idempotency: ", why, "; record ", core.text(lib.ig_request_log_id, req),
          ", rule ", core.text(lib.ig_request_rule, req))
end

-- Runs a request to its end, from what was decided by its head: what the client gets, or nil where it goes on as it is.
function _M.run(config, req, code)
  local ok, made = pcall(protect, config, req, code)
  leases.done(req)
  if not ok then
    -- Whatever was begun is told as it stands: what was sent is unknown, what was not is free.
    ngx.log(ngx.ERR, "idempotency: ", made)
    lib.ig_request_abort(req)
    made = core.fault_reply()
    if ngx.headers_sent then
      made = { broken = true }
    end
  end
  service.background(config, req)
  if made then
    tell(req, made.stream and { status = 200 } or made.broken and { status = 503 } or made)
  end
  return made
end

-- Gives the client what it gets. Does not return.
function _M.answer(made)
  if made.broken then
    return ngx.exit(ngx.ERROR)
  end
  if made.stream then
    if made.cut then
      return made.stream:cut()
    end
    return made.stream:finish()
  end
  return answer.whole(made)
end

return _M
