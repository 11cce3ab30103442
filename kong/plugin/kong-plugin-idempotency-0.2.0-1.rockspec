-- Only the plugin's Lua. The core library, libidempotency_core_ffi.so, is built from crates/core-ffi and put where Lua
-- looks for C modules (kong/README.md).
package = "kong-plugin-idempotency"
version = "0.2.0-1"
rockspec_format = "3.0"

source = {
  url = "git+file://.",
}

description = {
  summary = "Retried requests run once: idempotency keys at the gateway, for Kong of any version",
  license = "Apache-2.0",
}

dependencies = {
  "lua == 5.1",
}

build = {
  type = "builtin",
  modules = {
    ["kong.plugins.idempotency.answer"] = "kong/plugins/idempotency/answer.lua",
    ["kong.plugins.idempotency.cdef"] = "kong/plugins/idempotency/cdef.lua",
    ["kong.plugins.idempotency.config_schema"] = "kong/plugins/idempotency/config_schema.lua",
    ["kong.plugins.idempotency.core"] = "kong/plugins/idempotency/core.lua",
    ["kong.plugins.idempotency.execution"] = "kong/plugins/idempotency/execution.lua",
    ["kong.plugins.idempotency.handler"] = "kong/plugins/idempotency/handler.lua",
    ["kong.plugins.idempotency.http"] = "kong/plugins/idempotency/http.lua",
    ["kong.plugins.idempotency.leases"] = "kong/plugins/idempotency/leases.lua",
    ["kong.plugins.idempotency.metrics"] = "kong/plugins/idempotency/metrics.lua",
    ["kong.plugins.idempotency.request"] = "kong/plugins/idempotency/request.lua",
    ["kong.plugins.idempotency.schema"] = "kong/plugins/idempotency/schema.lua",
    ["kong.plugins.idempotency.service"] = "kong/plugins/idempotency/service.lua",
    ["kong.plugins.idempotency.settings"] = "kong/plugins/idempotency/settings.lua",
    ["kong.plugins.idempotency.upstream"] = "kong/plugins/idempotency/upstream.lua",
  },
}
