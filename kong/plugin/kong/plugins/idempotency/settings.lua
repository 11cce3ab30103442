-- Kong's configuration of a plugin as the core library's: read once, as long as it is the same table.

local cjson = require "cjson"
local core = require "kong.plugins.idempotency.core"
local schema = require "kong.plugins.idempotency.config_schema"

local ngx = ngx

local _M = {}

-- Kong gives the same table for the same configuration, and a new one when it changes.
local known = setmetatable({}, { __mode = "k" })

-- Without what is not set, and without what Kong adds.
local function clean(value)
  if value == ngx.null then
    return nil
  end
  if type(value) ~= "table" then
    return value
  end
  local out = setmetatable({}, getmetatable(value))
  for name, inner in pairs(value) do
    if inner ~= ngx.null and not (type(name) == "string" and name:sub(1, 2) == "__") then
      out[name] = clean(inner)
    end
  end
  return out
end

-- The configuration for the core library. (cjson writes integers below 10^14 as they are, and no field takes larger ones.)
function _M.json(conf)
  -- Kong puts more into the table that it hands to a plugin (`service_id`, `plugin_instance_name` and others, by its
  -- version). What is not ours is left out; Kong itself refuses a file with such a field.
  local ours = {}
  for name in pairs(schema.properties) do
    ours[name] = clean(conf[name])
  end
  return cjson.encode(ours)
end

-- Why a configuration is rejected; nil: it is accepted. A token that comes from a vault is not known before the plugin
-- runs, and any will do until then.
function _M.errors(conf)
  return core.config(_M.json(conf)).errors
end

-- A table of Kong's as a configuration of the core library. One that is rejected is told once, and refuses requests.
function _M.of(conf)
  local config = known[conf]
  if config then
    return config
  end
  config = core.config(_M.json(conf))
  if config.errors then
    for line in config.errors:gmatch("[^\n]+") do
      ngx.log(ngx.ERR, "idempotency: configuration rejected: ", line)
    end
  end
  known[conf] = config
  return config
end

return _M
