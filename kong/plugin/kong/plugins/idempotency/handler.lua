-- Idempotency for Kong of any version: the plugin `idempotency`.
--
-- Everything is decided by the core library. `access` reads the request, calls the service, executes and answers, so
-- that nothing depends on the client's connection (ADR 29).

local core = require "kong.plugins.idempotency.core"
local execution = require "kong.plugins.idempotency.execution"
local metrics = require "kong.plugins.idempotency.metrics"
local request = require "kong.plugins.idempotency.request"
local settings = require "kong.plugins.idempotency.settings"

local lib = core.lib

local Idempotency = {
  VERSION = "0.2.0",
  -- Behind authentication (1000 and more), access control (950), limits of rates (910: a replay is counted like any
  -- request), and what changes requests (801) or answers them itself (750); before what only watches.
  PRIORITY = 20,
}

function Idempotency:init_worker()
  metrics.init()
end

function Idempotency:access(conf)
  local config = settings.of(conf)
  local code, req = request.decide(config)
  if req then
    request.strip(req)
  end
  if code == lib.IG_PASS then
    return
  end
  local made
  if code == lib.IG_FAULT then
    made = core.fault_reply()
  else
    made = execution.run(config, req, code)
  end
  if made then
    return execution.answer(made)
  end
end

return Idempotency
