-- Kong's balancer as far as it was seen to matter here: the address of a peer, and the host that it is called by.

local _M = {}

function _M.execute(data)
  -- A Kong whose balancer is another one.
  if ngx.req.get_headers()["x-test-balancer"] == "other" then
    error("no such function")
  end
  data.ip, data.hostname = data.host, data.name or data.host
  return true
end

function _M.set_host_header(data, scheme, host)
  if data.preserve_host then
    return true
  end
  local usual = scheme == "https" and 443 or 80
  local name = data.hostname .. (data.port ~= usual and ":" .. data.port or "")
  if name ~= host then
    ngx.var.upstream_host = name
  end
  return true
end

return _M
