-- The core library, as Lua sees it: strings and tables in place of pointers. Decides nothing.
--
-- The library is `libidempotency_core_ffi.so`, looked for where Lua looks for C modules (LUA_CPATH, Kong's
-- lua_package_cpath), then where the system looks.

local ffi = require "ffi"

ffi.cdef(require "kong.plugins.idempotency.cdef")

local NAME = "libidempotency_core_ffi"

local function load()
  -- (package.searchpath wants names without hyphens or dots, which this one is.)
  local path = package.searchpath(NAME, package.cpath)
  return ffi.load(path or "idempotency_core_ffi")
end

local lib = load()
-- The number is in the declarations, and in the library: both must be of one release.
if lib.ig_abi() ~= lib.IG_ABI then
  error("idempotency: the library " .. NAME .. " is of another release than the plugin")
end

local new, cast, to_string, gc = ffi.new, ffi.cast, ffi.string, ffi.gc
local MISSING = cast("void *", nil)

local _M = { lib = lib }

-- Room for what comes out. Nothing here yields between a call and the reading of what it left.
local bytes = new("ig_bytes[1]")
local fields = new("ig_fields[1]")
local reply = new("ig_reply[1]")
local service = new("ig_service[1]")
local head = new("ig_head[1]")
local request = new("ig_request *[1]")
local number = new("uint64_t[1]")
local room_for, room = 0, nil

local function text(from)
  if from.len == 0 then
    return ""
  end
  return to_string(from.data, from.len)
end

-- Fields as a list of { name, value }.
local function list(from)
  local out = {}
  for i = 0, tonumber(from.len) - 1 do
    local field = from.data[i]
    out[i + 1] = { text(field.name), text(field.value) }
  end
  return out
end

local function put(to, value)
  to.data, to.len = value, #value
end

-- A list of { name, value } as fields. They point into the strings of the list, which must outlive them.
local function lay(pairs, at)
  local count = #pairs
  for i = 1, count do
    local field = room[at + i - 1]
    put(field.name, pairs[i][1])
    put(field.value, pairs[i][2])
  end
  return count
end

local function make_room(count)
  if count > room_for then
    room_for = count * 2
    room = new("ig_field[?]", room_for)
  end
end

-- Reads a configuration (JSON). `errors` is nil where it was accepted. A rejected one refuses requests.
function _M.config(json)
  local handle = lib.ig_config_new(json, #json)
  if handle == MISSING then
    return { errors = "the library failed" }
  end
  local config = { handle = gc(handle, lib.ig_config_free), properties = {} }
  lib.ig_config_errors(handle, bytes)
  local errors = text(bytes[0])
  if errors ~= "" then
    config.errors = errors
  end
  if lib.ig_config_properties(handle, fields) == lib.IG_DONE then
    for i, property in ipairs(list(fields[0])) do
      config.properties[i] = property[1]
    end
  end
  if lib.ig_config_service(handle, service) == lib.IG_DONE then
    local s = service[0]
    config.service = {
      target = text(s.target),
      authority = text(s.authority),
      bearer = text(s.bearer),
      content_type = text(s.content_type),
      operations_path = text(s.operations_path),
      wait_path = text(s.wait_path),
      timeout_ms = tonumber(s.timeout_ms),
      max_in_flight = s.max_in_flight,
      max_operations = s.max_operations,
      tls = s.tls == 1,
    }
  end
  return config
end

-- Decides from the head of a request: a code, and the request where something is left to do with it.
-- `of`: method, target, authority, fields, properties (lists of { name, value }), client, request_id, bodiless,
-- truncated.
function _M.decide(config, of)
  if not config.handle then
    return lib.IG_FAULT
  end
  local h = head[0]
  put(h.method, of.method)
  put(h.target, of.target)
  put(h.authority, of.authority)
  put(h.client, of.client)
  put(h.request_id, of.request_id)
  h.bodiless = of.bodiless and 1 or 0
  h.truncated = of.truncated and 1 or 0
  make_room(#of.fields + #of.properties)
  h.fields.len = lay(of.fields, 0)
  h.properties.len = lay(of.properties, #of.fields)
  h.fields.data = room
  h.properties.data = room and room + #of.fields or nil
  request[0] = nil
  local code = lib.ig_decide(config.handle, head, request)
  local made = request[0]
  if made == MISSING then
    return code
  end
  return code, gc(made, lib.ig_request_free)
end

-- The list of fields that a function of the library tells of a request.
function _M.fields(of, req)
  if of(req, fields) ~= lib.IG_DONE then
    return {}
  end
  return list(fields[0])
end

-- The text that a function of the library tells of a request.
function _M.text(of, req)
  if of(req, bytes) ~= lib.IG_DONE then
    return ""
  end
  return text(bytes[0])
end

local function read_reply()
  local r = reply[0]
  return { status = r.status, fields = list(r.fields), body = text(r.body) }
end

-- What the client gets in place of the upstream's answer.
function _M.reply(req)
  if lib.ig_request_reply(req, reply) == lib.IG_DONE then
    return read_reply()
  end
  return _M.fault_reply()
end

-- What a client gets after a defect: 503.
function _M.fault_reply()
  if lib.ig_fault_reply(reply) == lib.IG_DONE then
    return read_reply()
  end
  return { status = 503, fields = {}, body = "" }
end

-- The message of a wait, and how long it may take besides the timeout; nil: its time is over.
function _M.wait(req)
  if lib.ig_request_wait(req, bytes, number) ~= lib.IG_DONE then
    return nil
  end
  return text(bytes[0]), tonumber(number[0])
end

-- The head of the upstream's answer.
function _M.answered(req, status, answer_fields)
  make_room(#answer_fields)
  local count = lay(answer_fields, 0)
  return lib.ig_request_answered(req, status, room, count)
end

function _M.batch(config)
  local made = lib.ig_batch_new(config.handle)
  if made == MISSING then
    return nil
  end
  return gc(made, lib.ig_batch_free)
end

function _M.message(batch)
  if lib.ig_batch_message(batch, bytes) ~= lib.IG_DONE then
    return ""
  end
  return text(bytes[0])
end

return _M
