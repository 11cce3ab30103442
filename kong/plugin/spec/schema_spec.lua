-- Kong's schema of the plugin, as far as it can be looked at without Kong.

local schema = require "kong.plugins.idempotency.schema"
local published = require "kong.plugins.idempotency.config_schema"

local function fields_of(record)
  local fields = {}
  for _, field in ipairs(record.fields) do
    local name, is = next(field)
    equal(next(field, name), nil)
    fields[name] = is
  end
  return fields
end

local top = fields_of(schema)
local config_record = top.config
local config = fields_of(config_record)

test("each field of the published schema is there", function()
  for name in pairs(published.properties) do
    equal(config[name] ~= nil, true, name)
  end
  local service = fields_of(config.service)
  for name in pairs(published.properties.service.properties) do
    equal(service[name] ~= nil, true, name)
  end
end)

test("simple values have Kong's types, and the token is a secret", function()
  local service = fields_of(config.service)
  equal(config.service.required, true)
  equal(service.target.type, "string")
  equal(service.target.required, true)
  equal(service.token.referenceable, true)
  equal(service.token.encrypted, true)
  equal(service.tls.type, "boolean")
  equal(service.timeout_ms.type, "integer")
  equal(service.timeout_ms.between[1], 1)
  equal(fields_of(service.batch).max_operations.between[2], 64)
end)

test("rules are JSON by the published schema, with all that it refers to", function()
  equal(config.rules.type, "json")
  equal(config.rules.required, true)
  local inline = config.rules.json_schema.inline
  equal(inline["$schema"], "http://json-schema.org/draft-04/schema#")
  equal(inline.type, "array")
  equal(inline.definitions, published.definitions)
end)

test("what is left out may be null, as Kong puts it there", function()
  local function check(record, path)
    for name, field in pairs(fields_of(record)) do
      if field.type == "record" then
        check(field, path .. name .. ".")
      elseif field.type == "json" and not field.required then
        equal(field.json_schema.inline.anyOf[1].type, "null", path .. name)
      end
    end
  end
  check(config_record, "")
  equal(config.host.type, "string")
end)

test("the core library has the last word", function()
  local check = schema.entity_checks[1].custom_entity_check.fn
  local rule = { match = { path = "/a" }, scope = "global" }
  equal(check({ config = { service = { target = "unix:/s" }, rules = { rule } } }), true)
  local ok, why = check({ config = { service = { target = "unix:/s" }, rules = { { match = { path = "/a" } } } } })
  equal(ok, nil)
  equal(why:find("rules[0]", 1, true), 1, why)
end)

test("the handler is one of Kong's", function()
  package.loaded["ngx.semaphore"] = {}
  local handler = require "kong.plugins.idempotency.handler"
  equal(handler.PRIORITY, 20)
  equal(type(handler.VERSION), "string")
  equal(type(handler.access), "function")
end)

test("the rock has every module", function()
  local plugin = arg[1]
  local rock = {}
  setfenv(assert(loadfile(plugin .. "/kong-plugin-idempotency-0.2.0-1.rockspec")), rock)()
  local listed = 0
  for name, path in pairs(rock.build.modules) do
    equal(path, name:gsub("%.", "/") .. ".lua")
    local file = assert(io.open(plugin .. "/" .. path))
    file:close()
    listed = listed + 1
  end
  local there = 0
  for _ in io.popen("ls " .. plugin .. "/kong/plugins/idempotency/*.lua"):lines() do
    there = there + 1
  end
  equal(listed, there)
end)
