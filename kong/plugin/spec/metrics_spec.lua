-- Counting on the page of Kong's Prometheus plugin, which is played here.

local core = require "kong.plugins.idempotency.core"

local config = core.config([[{"service":{"target":"unix:/s"},"rules":[
  {"name":"pay","match":{"path":"/pay"},"scope":"global"}]}]])
local _, req = core.decide(config, {
  method = "POST", target = "/pay", authority = "", client = "", request_id = "", properties = {},
  fields = { { "Idempotency-Key", "k" } },
})

-- A fresh module, in a Kong with these plugins.
local function metrics(loaded, exporter)
  kong = { configuration = { loaded_plugins = loaded } }
  package.loaded["kong.plugins.prometheus.exporter"] = exporter
  package.loaded["kong.plugins.idempotency.metrics"] = nil
  local module = require "kong.plugins.idempotency.metrics"
  module.init()
  return module
end

test("each outcome is counted with its rule", function()
  local counted = {}
  local prometheus = {}
  function prometheus:counter(name, help, labels)
    equal(self, prometheus)
    equal(name, "idempotency_requests_total")
    equal(type(help), "string")
    equal(table.concat(labels, " "), "outcome rule")
    return { inc = function(_, value, values)
      counted[#counted + 1] = value .. " " .. table.concat(values, " ")
    end }
  end
  local module = metrics({ prometheus = true }, { get_prometheus = function() return prometheus end })
  module.count("executed", req)
  module.count("replayed", req)
  equal(table.concat(counted, ", "), "1 executed pay, 1 replayed pay")
end)

test("without that plugin, or with another one, nothing fails", function()
  local asked = 0
  local function ask()
    asked = asked + 1
  end
  for _, case in ipairs({
    { {}, { get_prometheus = ask } },
    { { prometheus = true }, {} },
    { { prometheus = true }, { get_prometheus = function() error("no") end } },
    { { prometheus = true }, { get_prometheus = function() return { counter = function() error("no") end } end } },
  }) do
    local module = metrics(case[1], case[2])
    module.count("executed", req)
    equal(module.counts.executed, 1)
  end
  equal(asked, 0)
end)
