-- Kong's configuration of a plugin as the core library's JSON.

local cjson = require "cjson"
local settings = require "kong.plugins.idempotency.settings"

test("what Kong leaves open is not told", function()
  local conf = {
    service = { target = "unix:/s", authority = ngx.null, timeout_ms = 1000, __key__ = "x" },
    rules = { { match = { path = "/a" }, scope = "global", ttl_ms = 31622400000, wait_ms = ngx.null } },
    __plugin_id = "x",
  }
  local got = cjson.decode(settings.json(conf))
  equal(got.service.target, "unix:/s")
  equal(got.service.authority, nil)
  equal(got.service.__key__, nil)
  equal(got.__plugin_id, nil)
  equal(got.rules[1].ttl_ms, 31622400000)
  equal(settings.json(conf):find("31622400000", 1, true) ~= nil, true)
  equal(settings.of(conf).errors, nil)
end)

test("one table is one configuration, read once", function()
  local conf = { service = { target = "unix:/s" }, rules = { { match = { path = "/a" }, scope = "global" } } }
  equal(settings.of(conf), settings.of(conf))
  local other = { service = { target = "unix:/s" }, rules = {} }
  equal(settings.of(conf) == settings.of(other), false)
end)

test("a rejected configuration is told in the log, field by field", function()
  local told = {}
  local log = ngx.log
  ngx.log = function(_, ...)
    told[#told + 1] = table.concat({ ... })
  end
  local config = settings.of({ service = { target = "unix:/s" }, rules = { { match = { path = "/a" } } } })
  ngx.log = log
  equal(type(config.errors), "string")
  equal(told[1]:find("idempotency: configuration rejected: rules[0]", 1, true), 1, told[1])
end)
