-- Counts what became of protected requests, on the page of Kong's Prometheus plugin where that is there:
-- `kong_idempotency_requests_total{outcome, rule}`.

local core = require "kong.plugins.idempotency.core"

local ngx = ngx
local lib = core.lib

local _M = {}

-- nil: not looked for yet; false: there is none.
local counter

-- What has been counted in this worker, for tests and for whoever has no Prometheus.
_M.counts = {}

local function find()
  -- Asking a plugin that is not there would leave an error line.
  local loaded = kong and kong.configuration and kong.configuration.loaded_plugins
  if not (loaded and loaded.prometheus) then
    return false
  end
  local ok, exporter = pcall(require, "kong.plugins.prometheus.exporter")
  if not ok or type(exporter) ~= "table" or type(exporter.get_prometheus) ~= "function" then
    return false
  end
  local prometheus
  ok, prometheus = pcall(exporter.get_prometheus)
  if not ok or not prometheus then
    return false
  end
  local made
  ok, made = pcall(prometheus.counter, prometheus, "idempotency_requests_total",
                   "Protected requests by what became of them", { "outcome", "rule" })
  return ok and made or false
end

-- Looks for the counter. To be called when the worker begins, behind the Prometheus plugin.
function _M.init()
  counter = find()
end

function _M.count(outcome, req)
  _M.counts[outcome] = (_M.counts[outcome] or 0) + 1
  if counter == nil then
    counter = find()
  end
  if not counter then
    return
  end
  local ok, err = pcall(counter.inc, counter, 1, { outcome, core.text(lib.ig_request_rule, req) })
  if not ok then
    ngx.log(ngx.WARN, "idempotency: ", err)
    counter = false
  end
end

return _M
