-- The call to the upstream: Kong's own choice of peer, one attempt, and an honest account of what was sent.
-- ADR 29 says why it is made here and not by nginx.

local core = require "kong.plugins.idempotency.core"
local http = require "kong.plugins.idempotency.http"
local request = require "kong.plugins.idempotency.request"

local ngx = ngx
local lib = core.lib

local _M = {}

-- What Kong lets nginx send besides the client's own fields: field → variable.
local FORWARDED = {
  { "X-Forwarded-For", "upstream_x_forwarded_for" },
  { "X-Forwarded-Proto", "upstream_x_forwarded_proto" },
  { "X-Forwarded-Host", "upstream_x_forwarded_host" },
  { "X-Forwarded-Port", "upstream_x_forwarded_port" },
  { "X-Forwarded-Path", "upstream_x_forwarded_path" },
  { "X-Forwarded-Prefix", "upstream_x_forwarded_prefix" },
  { "Via", "upstream_via" },
}

-- Kong's balancer. It is no part of the PDK, and has had this form since Kong 0.12 (`execute`) and 2.0
-- (`set_host_header`).
local function balancer()
  return require "kong.runloop.balancer"
end

-- Tells Kong's health checks, and gives the peer back.
local function report(data, what, status)
  local of, handle = data.balancer, data.balancer_handle
  if not of or not handle then
    return
  end
  pcall(function()
    if what == "status" then
      of.report_http_status(handle, status)
    elseif what == "timeout" then
      of.report_timeout(handle)
    else
      of.report_tcp_failure(handle)
    end
    if handle.release then
      handle:release()
    end
  end)
end

-- Whether this service needs something that this call cannot do; a text for the client.
function _M.unsupported()
  local service = ngx.ctx.service or {}
  local scheme = ngx.var.upstream_scheme
  if scheme ~= "http" and scheme ~= "https" then
    return "This gateway protects services of http and https only."
  end
  if service.client_certificate then
    return "This gateway cannot show a client certificate to the service of a protected request."
  end
end

-- Kong's own texts for what it answers itself.
local FAILED = {
  [500] = "An unexpected error occurred",
  [502] = "An invalid response was received from the upstream server",
  [503] = "failure to get a peer from the ring-balancer",
  [504] = "The upstream server is timing out",
}

local function failed(status)
  return { status = status, fields = { { "content-type", "application/json; charset=utf-8" } },
           body = '{"message":"' .. FAILED[status] .. '"}' }
end

-- A connection to the peer that Kong chooses, the peer, and its data; nil and what the client gets.
function _M.connect()
  local ctx, var = ngx.ctx, ngx.var
  local data = ctx.balancer_data
  if not data then
    return nil, failed(503)
  end
  local host = var.upstream_host
  if host ~= nil and host ~= "" then
    data.preserve_host = true
  end
  data.scheme = var.upstream_scheme
  local ok, err, code = balancer().execute(data, ctx)
  if not ok then
    ngx.log(ngx.ERR, "idempotency: no peer: ", err)
    return nil, failed(FAILED[code] and code or 500)
  end
  ok, err = balancer().set_host_header(data, data.scheme, host)
  if not ok then
    ngx.log(ngx.ERR, "idempotency: ", err)
    return nil, failed(500)
  end
  local sock = ngx.socket.tcp()
  sock:settimeouts(data.connect_timeout, data.send_timeout, data.read_timeout)
  local name = var.upstream_host
  local settings = kong.configuration or {}
  local size = settings.upstream_keepalive_pool_size or 512
  local options
  if size > 0 then
    options = { pool = table.concat({ "idempotency-upstream", data.scheme, data.ip, data.port, name or "" }, "|"),
                pool_size = size }
  end
  -- (An address of IPv6 comes in brackets, as nginx wants it.)
  ok, err = sock:connect(data.ip, data.port, options)
  if not ok then
    ngx.log(ngx.ERR, "idempotency: the upstream was not reached: ", err)
    report(data, err == "timeout" and "timeout" or "tcp")
    return nil, failed(err == "timeout" and 504 or 502)
  end
  if data.scheme == "https" and sock:getreusedtimes() == 0 then
    local service = ctx.service or {}
    ok, err = sock:sslhandshake(nil, (name or ""):gsub(":%d+$", ""), service.tls_verify == true)
    if not ok then
      ngx.log(ngx.ERR, "idempotency: TLS with the upstream failed: ", err)
      sock:close()
      report(data, "tcp")
      return nil, failed(502)
    end
  end
  return sock, { data = data, host = name, size = size, idle = settings.upstream_keepalive_idle_timeout or 60 }
end

-- The target that goes upstream. Kong puts the query behind its path only after the plugins' turn
-- (`runloop.handler.access.after`), an empty one included.
local function target()
  local var = ngx.var
  local uri = ngx.ctx.request_uri or var.request_uri
  if var.is_args == "?" or uri:sub(-1) == "?" then
    return var.upstream_uri .. "?" .. (var.args or "")
  end
  return var.upstream_uri
end

-- The head of the request; nil and what the client gets where it cannot be written.
function _M.head(req, peer, body)
  local var, method = ngx.var, ngx.req.get_method()
  local fields = { { "Host", peer.host or peer.data.hostname or peer.data.ip }, { "Connection", "keep-alive" } }
  local ours = {}
  for _, known in ipairs(FORWARDED) do
    local value = var[known[2]]
    -- (A Kong that has no such variable lets the client's field pass.)
    if value then
      ours[known[1]:lower()] = true
    end
    if value and value ~= "" then
      fields[#fields + 1] = { known[1], value }
    end
  end
  local enabled = kong.configuration and kong.configuration.enabled_headers_upstream
  if enabled and enabled["X-Kong-Request-Id"] and var.kong_request_id then
    ours["x-kong-request-id"] = true
    fields[#fields + 1] = { "X-Kong-Request-Id", var.kong_request_id }
  end
  local real = var.remote_addr
  ours["x-real-ip"] = true
  -- Kong takes it away, too: CGI would make HTTP_PROXY of it.
  ours["proxy"] = true
  if real then
    fields[#fields + 1] = { "X-Real-IP", real }
  end
  for _, field in ipairs(core.fields(lib.ig_request_forwarded, req)) do
    if not ours[field[1]] then
      fields[#fields + 1] = field
    end
  end
  if body.size > 0 or (method ~= "DELETE" and method ~= "GET") then
    fields[#fields + 1] = { "Content-Length", tostring(body.size) }
  end
  local head = http.head(method, target(), fields)
  if not head then
    ngx.log(ngx.ERR, "idempotency: the request has a target or a field that no request may have")
    return nil, failed(500)
  end
  return head
end

local function how(err)
  return err == "timeout" and lib.IG_CUT_LATE or lib.IG_CUT_BROKEN
end

-- Sends the request: the head of the answer; nil and how it failed.
function _M.send(sock, peer, head, body)
  local method = ngx.req.get_method()
  local sent, err
  if body.data then
    sent, err = sock:send({ head, body.data })
  else
    sent, err = sock:send(head)
    if sent then
      sent, err = request.each_piece(body, function(piece)
        return sock:send(piece)
      end)
    end
  end
  -- An upstream may answer before it has read all, and then close: what it said counts.
  local answer, why = http.read_head(sock, method)
  if not answer then
    sock:close()
    err = err or why
    ngx.log(ngx.ERR, "idempotency: the upstream gave no answer: ", err)
    report(peer.data, err == "timeout" and "timeout" or "tcp")
    return nil, how(err)
  end
  answer.kept = answer.kept and sent
  return answer
end

-- Reads the body of the answer, and says how it ended.
function _M.read(sock, peer, answer, req, each)
  local whole, err = http.read_body(sock, answer, function(piece)
    lib.ig_request_piece(req, piece, #piece)
    each(piece)
  end, function()
    lib.ig_request_trailers(req)
  end)
  if not whole then
    ngx.log(ngx.ERR, "idempotency: the upstream's answer was cut: ", err)
    sock:close()
    report(peer.data, err == "timeout" and "timeout" or "tcp")
    return how(err)
  end
  report(peer.data, "status", answer.status)
  if answer.kept and peer.size > 0 then
    sock:setkeepalive(peer.idle * 1000, peer.size)
  else
    sock:close()
  end
  return lib.IG_WHOLE
end

return _M
