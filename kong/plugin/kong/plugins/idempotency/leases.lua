-- Renews the leases of what this worker executes, from half of their time on: one timer for all of them.

local core = require "kong.plugins.idempotency.core"
local metrics = require "kong.plugins.idempotency.metrics"
local service = require "kong.plugins.idempotency.service"

local ngx = ngx
local lib = core.lib

local _M = {}

-- How often it is looked at what is due, in seconds. The shortest lease is one second.
local PERIOD = 0.2

-- What runs: request → { config = …, renewing = … }.
local running = {}
local count = 0
local ticking = false

local function renew(config, due)
  local batch = core.batch(config)
  if not batch then
    return
  end
  local sent = {}
  for _, entry in ipairs(due) do
    local place = lib.ig_batch_add_renewal(batch, entry.req)
    if place == lib.IG_FULL then
      break
    end
    if place >= 0 then
      entry.renewing, entry.place = true, place
      sent[#sent + 1] = entry
    end
  end
  if #sent == 0 then
    return
  end
  local ok, err = pcall(service.send, config, batch)
  if not ok then
    ngx.log(ngx.ERR, "idempotency: leases could not be renewed: ", err)
  end
  for _, entry in ipairs(sent) do
    entry.renewing = false
    if ok and lib.ig_request_renewed(entry.req, batch, entry.place) == lib.IG_LOST then
      ngx.log(ngx.WARN, "idempotency: the lease of a running execution is lost: ",
              core.text(lib.ig_request_log_id, entry.req))
      entry.lost = true
      metrics.count("lease_lost", entry.req)
    elseif ok and lib.ig_request_renewal_ms(entry.req) > 0 then
      metrics.count("lease_renewed", entry.req)
    end
  end
end

function _M.tick()
  local by_config = {}
  for req, entry in pairs(running) do
    if not entry.renewing and not entry.lost and lib.ig_request_renewal_ms(req) == 0 then
      local due = by_config[entry.config]
      if not due then
        due = {}
        by_config[entry.config] = due
      end
      due[#due + 1] = entry
    end
  end
  for config, due in pairs(by_config) do
    ngx.thread.spawn(renew, config, due)
  end
end

local function on_timer(premature)
  while count > 0 do
    _M.tick()
    if not premature and ngx.timer.at(PERIOD, on_timer) then
      return
    end
    -- A worker that ends takes no timer more; what it executes is still to be finished.
    ngx.sleep(PERIOD)
  end
  ticking = false
end

-- Renews this one until `done`.
function _M.track(config, req)
  if running[req] then
    return
  end
  running[req] = { req = req, config = config }
  count = count + 1
  if not ticking then
    ticking = (ngx.timer.at(PERIOD, on_timer) or ngx.timer.at(0, on_timer)) and true or false
  end
end

function _M.done(req)
  if running[req] then
    running[req] = nil
    count = count - 1
  end
end

function _M.count()
  return count
end

return _M
