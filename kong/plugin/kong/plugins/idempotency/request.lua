-- What nginx and Kong know of a request, in the form that the core library wants.

local core = require "kong.plugins.idempotency.core"

local ngx = ngx
local lib = core.lib

local _M = {}

-- How much of a body in a file is read at a time.
local PIECE = 65536

local LENGTH_REQUIRED = "The request body needs a Content-Length."
local UNREADABLE = "The gateway cannot read the request body."

local function pdk(of, ...)
  local ok, value = pcall(of, ...)
  return ok and value or nil
end

-- Where the properties come from that a configuration may name.
local SOURCES = {
  ["kong.route_id"] = function() return pdk(function() return kong.router.get_route().id end) end,
  ["kong.route_name"] = function() return pdk(function() return kong.router.get_route().name end) end,
  ["kong.service_id"] = function() return pdk(function() return kong.router.get_service().id end) end,
  ["kong.service_name"] = function() return pdk(function() return kong.router.get_service().name end) end,
  ["kong.consumer.id"] = function() return pdk(function() return kong.client.get_consumer().id end) end,
  ["kong.consumer.username"] = function() return pdk(function() return kong.client.get_consumer().username end) end,
  ["kong.consumer.custom_id"] = function() return pdk(function() return kong.client.get_consumer().custom_id end) end,
  ["kong.credential.id"] = function() return pdk(function() return kong.client.get_credential().id end) end,
}

local function property(name)
  local source = SOURCES[name]
  if source then
    return source()
  end
  local variable = name:match("^ngx%.(.+)$")
  if variable then
    return pdk(function() return ngx.var[variable] end)
  end
  local value = name:match("^kong%.ctx%.shared%.(.+)$")
  if value then
    return pdk(function() return kong.ctx.shared[value] end)
  end
end

local function properties(config)
  local known = {}
  for _, name in ipairs(config.properties) do
    local value = property(name)
    if type(value) == "number" then
      value = tostring(value)
    end
    if type(value) == "string" and value ~= "" then
      known[#known + 1] = { name, value }
    end
  end
  return known
end

-- All fields of the request, as they came. (Of different names nginx tells no order, and none matters.)
local function fields()
  local out = {}
  for name, value in pairs(ngx.req.get_headers(0, true)) do
    if type(value) == "table" then
      for i = 1, #value do
        out[#out + 1] = { name, value[i] }
      end
    else
      out[#out + 1] = { name, value == true and "" or value }
    end
  end
  return out
end

local function request_id()
  return pdk(function() return kong.request.get_id() end) or ngx.var.request_id or ""
end

-- Decides from the head of the current request: a code, and the request where something is left to do with it.
function _M.decide(config)
  local headers = fields()
  local var = ngx.var
  return core.decide(config, {
    method = ngx.req.get_method(),
    target = var.request_uri,
    authority = var.http_host or "",
    fields = headers,
    properties = properties(config),
    client = var.remote_addr or "",
    request_id = request_id(),
    bodiless = var.http_content_length == nil and var.http_transfer_encoding == nil
      and ngx.req.http_version() < 2,
    truncated = false,
  })
end

-- Removes what must not go upstream.
function _M.strip(req)
  for _, field in ipairs(core.fields(lib.ig_request_strip, req)) do
    ngx.req.clear_header(field[1])
  end
end

local function refuse(req, status, detail)
  return lib.ig_request_refuse(req, status, detail, #detail)
end

-- Reads the whole body and hashes it: a code, and the body as { data = … } or { file = path, size = … }.
function _M.body(req)
  local ok = pcall(ngx.req.read_body)
  if not ok then
    -- nginx' Lua reads no body of HTTP/2 whose length nobody told.
    return refuse(req, 411, LENGTH_REQUIRED)
  end
  local data = ngx.req.get_body_data()
  if data then
    return lib.ig_request_body(req, data, #data), { data = data, size = #data }
  end
  local path = ngx.req.get_body_file()
  if not path then
    return lib.IG_BODY, { data = "", size = 0 }
  end
  local file = io.open(path, "rb")
  if not file then
    return refuse(req, 500, UNREADABLE)
  end
  local size, code = 0, lib.IG_BODY
  while code == lib.IG_BODY do
    local piece = file:read(PIECE)
    if not piece then
      break
    end
    size = size + #piece
    code = lib.ig_request_body(req, piece, #piece)
  end
  file:close()
  return code, { file = path, size = size }
end

-- Calls `send` with each piece of a body in a file: nil and why where it failed.
function _M.each_piece(body, send)
  local file, err = io.open(body.file, "rb")
  if not file then
    return nil, err
  end
  while true do
    local piece = file:read(PIECE)
    if not piece then
      file:close()
      return true
    end
    local ok, why = send(piece)
    if not ok then
      file:close()
      return nil, why
    end
  end
end

return _M
