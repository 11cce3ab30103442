-- Kong's schema of the plugin. It is made from the published one (config_schema.lua); the core library has the last
-- word, and is asked when a configuration is stored or loaded.

local schema = require "kong.plugins.idempotency.config_schema"

-- Secrets, which may come from a vault and are kept encrypted where Kong can.
local SECRET = { token = true }

local field_of

-- A record of Kong's from an object whose members are all named.
local function record_of(object)
  local names = {}
  for name in pairs(object.properties) do
    names[#names + 1] = name
  end
  table.sort(names)
  local required = {}
  for _, name in ipairs(object.required or {}) do
    required[name] = true
  end
  local fields = {}
  for i, name in ipairs(names) do
    local field = field_of(object.properties[name], required[name])
    field.required = required[name] or nil
    if SECRET[name] then
      field.referenceable, field.encrypted = true, true
    end
    fields[i] = { [name] = field }
  end
  return { type = "record", fields = fields }
end

-- A value that Kong's own types cannot describe: as JSON, by the schema itself (Kong 3.4 and later).
local function json_of(property, required)
  local inline = { ["$schema"] = schema["$schema"], definitions = schema.definitions }
  if required then
    for word, value in pairs(property) do
      inline[word] = value
    end
  else
    -- Kong puts null where a field is not set, and has the schema look at it like at any value.
    inline.anyOf = { { type = "null" }, property }
  end
  return { type = "json", json_schema = { inline = inline } }
end

local function are_strings(values)
  for _, value in ipairs(values) do
    if type(value) ~= "string" then
      return false
    end
  end
  return true
end

function field_of(property, required)
  if property.enum and (property.type == "string" or property.type == nil) and are_strings(property.enum) then
    return { type = "string", one_of = property.enum }
  elseif property.type == "string" then
    return { type = "string", len_min = property.minLength, len_max = property.maxLength }
  elseif property.type == "boolean" then
    return { type = "boolean" }
  elseif property.type == "number" and property.multipleOf == 1 and property.minimum and property.maximum then
    return { type = "integer", between = { property.minimum, property.maximum } }
  elseif property.type == "object" and property.properties and not property.oneOf and not property.allOf then
    return record_of(property)
  end
  return json_of(property, required)
end

-- Whether the core library takes it: true, or nil and all faults.
local function check(entity)
  local ok, settings = pcall(require, "kong.plugins.idempotency.settings")
  if not ok then
    return nil, "the core library cannot be loaded: " .. tostring(settings)
  end
  local errors = settings.errors(entity.config)
  if errors then
    return nil, errors
  end
  return true
end

local config = { type = "record", required = true, fields = {} }
for _, name in ipairs({ "host", "service", "detached", "hop", "kong", "problem_base", "replay_header", "defaults", "rules" }) do
  local property = schema.properties[name]
  local required = (name == "service" or name == "rules") or nil
  -- What is no simple value is a record only where its members are: those of rules are many and of many forms.
  local field = (name == "service") and record_of(property) or field_of(property, required)
  if name == "rules" or name == "defaults" or name == "hop" or name == "detached" then
    field = json_of(property, required)
  end
  field.required = required
  config.fields[#config.fields + 1] = { [name] = field }
end

return {
  name = "idempotency",
  fields = {
    -- A consumer's own configuration would be chosen by who asks, and keys with it.
    { consumer = { type = "foreign", reference = "consumers", eq = ngx.null } },
    { protocols = { type = "set", elements = { type = "string", one_of = { "http", "https" } },
                    default = { "http", "https" } } },
    { config = config },
  },
  entity_checks = {
    { custom_entity_check = { field_sources = { "config" }, fn = check } },
  },
}
