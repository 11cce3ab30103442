-- What the plugin uses of Kong, in an nginx with Lua: the PDK's functions and the runloop around them, as Kong 3.9.3 was
-- seen to behave (docs/kong-facts.md, ADR 29). Nothing else of Kong is here.

local cjson = require "cjson"

local _M = {}

local function read(path)
  local file = assert(io.open(path, "rb"))
  local text = file:read("*a")
  file:close()
  return text
end

-- In `init_by_lua`: `settings` has the plugin's configuration, and the upstream's address.
function _M.init(path)
  require "resty.core"
  _M.settings = cjson.decode(read(path))
  _M.conf = _M.settings.plugin
  -- What Kong adds to a plugin's configuration, besides null for each field that is not set.
  for _, name in ipairs({ "host", "hop", "defaults", "kong", "problem_base", "replay_header", "route_id",
                          "consumer_id", "consumer_group_id" }) do
    _M.conf[name] = _M.conf[name] or ngx.null
  end
  _M.conf.service_id = "22222222-2222-4222-8222-222222222222"
  _M.conf.plugin_instance_name = "idempotency"
  _M.conf.__plugin_id = "44444444-4444-4444-8444-444444444444"

  local shared = setmetatable({}, {
    __index = function(_, name) return (ngx.ctx.shared or {})[name] end,
    __newindex = function(_, name, value)
      ngx.ctx.shared = ngx.ctx.shared or {}
      ngx.ctx.shared[name] = value
    end,
  })

  kong = {
    configuration = { upstream_keepalive_pool_size = 512, upstream_keepalive_idle_timeout = 60 },
    ctx = { shared = shared },
    client = {
      get_consumer = function() return ngx.ctx.authenticated_consumer end,
      get_credential = function() return ngx.ctx.authenticated_credential end,
    },
    router = {
      get_route = function() return ngx.ctx.route end,
      get_service = function() return ngx.ctx.service end,
    },
    request = { get_id = function() return ngx.var.request_id end },
    response = {},
  }

  local function send(status, body, headers)
    if ngx.headers_sent then
      error("headers have already been sent", 2)
    end
    ngx.status = status
    for name, value in pairs(headers or {}) do
      ngx.header[name] = value
    end
    ngx.header["content-length"] = #(body or "")
    if body then
      ngx.print(body)
    end
    return ngx.exit(status)
  end

  -- Within a plugin's coroutine the answer waits until the plugins' turn is over, and the plugin goes no further.
  function kong.response.exit(status, body, headers)
    if ngx.ctx.delay_response and not ngx.ctx.delayed_response then
      ngx.ctx.delayed_response = { status = status, body = body, headers = headers }
      return coroutine.yield()
    end
    return send(status, body, headers)
  end

  -- Kong 3.9's lua-nginx-module (0.10.26) raises an error here, which Debian's (0.10.23) does not.
  local read_body = ngx.req.read_body
  ngx.req.read_body = function()
    if ngx.req.http_version() >= 2 and not ngx.var.http_content_length then
      error("http2 requests are not supported without content-length header", 2)
    end
    return read_body()
  end

  _M.send = send
  _M.handler = require "kong.plugins.idempotency.handler"
end

function _M.init_worker()
  _M.handler:init_worker()
end

-- The runloop before the plugins: the router's and the balancer's preparations.
local function before(ctx)
  local var = ngx.var
  local to = _M.settings.upstream
  ctx.route = { id = "11111111-1111-4111-8111-111111111111", name = "route" }
  ctx.service = { id = "22222222-2222-4222-8222-222222222222", name = "service", protocol = to.scheme,
                  tls_verify = to.scheme == "https" }
  ctx.balancer_data = {
    scheme = to.scheme,
    type = "ipv4",
    host = to.host,
    name = to.name ~= cjson.null and to.name or nil,
    port = to.port,
    try_count = 0,
    tries = {},
    retries = 0,
    connect_timeout = to.connect_timeout,
    send_timeout = to.send_timeout,
    read_timeout = to.read_timeout,
  }
  -- A peer that nobody listens at.
  local port = ngx.req.get_headers()["x-test-port"]
  if port then
    ctx.balancer_data.port = tonumber(port)
  end
  var.upstream_scheme = to.scheme
  -- Without the query, which Kong adds when the plugins have had their turn.
  var.upstream_uri = var.request_uri:match("^[^?]*")
  var.upstream_host = ""
  local before_us = var.http_x_forwarded_for
  var.upstream_x_forwarded_for = (before_us and before_us .. ", " or "") .. var.remote_addr
  var.upstream_x_forwarded_proto = var.scheme
  var.upstream_x_forwarded_host = var.host
  var.upstream_x_forwarded_port = var.server_port
  -- An authentication plugin.
  local name = ngx.req.get_headers()["x-test-consumer"]
  if name then
    ctx.authenticated_consumer = { id = "33333333-3333-4333-8333-333333333333", custom_id = name }
  end
end

-- Kong's access phase: the plugin in a coroutine of its own, then what it wants to say, or the proxy.
function _M.access()
  local ctx = ngx.ctx
  before(ctx)
  ctx.delay_response = true
  -- What everything else costs, for whoever measures.
  local handler = ngx.var.http_x_test_bare and function() end or _M.handler.access
  local co = coroutine.create(handler)
  local ok, err = coroutine.resume(co, _M.handler, _M.conf)
  ctx.delay_response = nil
  if not ok then
    ngx.log(ngx.ERR, "plugin failed: ", err)
    return _M.send(500, "An unexpected error occurred")
  end
  local answer = ctx.delayed_response
  if answer then
    return _M.send(answer.status, answer.body, answer.headers)
  end
  if ngx.var.is_args == "?" then
    ngx.var.upstream_uri = ngx.var.upstream_uri .. "?" .. ngx.var.args
  end
  local data = ctx.balancer_data
  require("kong.runloop.balancer").execute(data, ctx)
  ngx.var.peer = data.ip .. ":" .. data.port
  ngx.var.upstream_host = data.hostname .. ":" .. data.port
end

-- What tests ask the worker.
function _M.state()
  ngx.header["content-type"] = "application/json"
  ngx.print(cjson.encode({
    counts = require("kong.plugins.idempotency.metrics").counts,
    leases = require("kong.plugins.idempotency.leases").count(),
    waiting = require("kong.plugins.idempotency.service").waiting,
    memory = collectgarbage("count"),
    worker = ngx.worker.pid(),
  }))
end

return _M
