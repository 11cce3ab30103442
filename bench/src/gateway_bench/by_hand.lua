-- The gateway's half of the service that one would write by hand (bench/src/by_hand): one call before the request goes
-- on, and one before its answer does.

local function ask(handle, path, headers, body)
  headers[":method"] = "POST"
  headers[":path"] = path
  headers[":authority"] = "by-hand"
  return handle:httpCall("idempotency", headers, body, 1000)
end

local function bytes(handle)
  local body = handle:body()
  return body and body:getBytes(0, body:length()) or ""
end

function envoy_on_request(handle)
  local headers = handle:headers()
  local key = headers:get("idempotency-key")
  local asked = { ["idempotency-key"] = key, ["x-target"] = headers:get(":path") }
  local answer, body = ask(handle, "/lock", asked, bytes(handle))
  local status = answer[":status"]
  if status == "201" then
    local metadata = handle:streamInfo():dynamicMetadata()
    metadata:set("by-hand", "key", key)
    metadata:set("by-hand", "token", answer["x-token"])
    metadata:set("by-hand", "fingerprint", answer["x-fingerprint"])
  elseif status == "200" then
    local first, kind, rest = string.match(body, "^(%d+) ([^\n]*)\n(.*)$")
    handle:respond({ [":status"] = first, ["content-type"] = kind, ["idempotency-replayed"] = "true" }, rest)
  else
    handle:respond({ [":status"] = status == "409" and "409" or status == "422" and "422" or "503" }, "refused")
  end
end

function envoy_on_response(handle)
  local mine = handle:streamInfo():dynamicMetadata():get("by-hand")
  if mine == nil then return end
  local headers = handle:headers()
  local head = headers:get(":status") .. " " .. (headers:get("content-type") or "") .. "\n"
  local asked = { ["idempotency-key"] = mine.key, ["x-token"] = mine.token, ["x-fingerprint"] = mine.fingerprint }
  local answer = ask(handle, "/store", asked, head .. bytes(handle))
  if answer[":status"] ~= "204" then
    headers:replace(":status", "503")
  end
end
