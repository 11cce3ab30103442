-- What one might write without our filter: ask the service before a request goes on, and again
-- before its answer does. It makes the calls that our filter makes for a first request, and does no
-- more than it must: it computes no fingerprint, and what it is not sure of is an error.

local OPERATIONS = {
  [":method"] = "POST",
  [":path"] = "/v1/operations",
  [":authority"] = "idempotency",
  ["authorization"] = "Bearer @TOKEN@",
  ["content-type"] = "application/vnd.idempotency-gateway.v1",
}
local ACQUIRE, COMPLETE, GRANTED, COMPLETED = 1, 2, 1, 9
local NO_FINGERPRINT = string.rep("\0", 40)

local function number(value, octets)
  local out = {}
  for at = octets, 1, -1 do
    out[at] = string.char(value % 256)
    value = math.floor(value / 256)
  end
  return table.concat(out)
end

local function short(text) return number(#text, 2) .. text end
local function long(text) return number(#text, 4) .. text end

local TIMES = number(60000, 8) .. number(86400000, 8) .. number(86400000, 8) .. "\0"

-- No tenant, no namespace, a client's key.
local function lookup(key) return short("") .. short("lua") .. "\0" .. short(key) end

-- Whether the service gives this answer to that operation.
local function ask(handle, operation, payload, answer)
  local message = "\1\0\1" .. string.char(operation) .. long(payload)
  local headers, body = handle:httpCall("idempotency", OPERATIONS, message, 1000)
  return headers[":status"] == "200" and body ~= nil and body:byte(4) == answer
end

local function random()
  local out = {}
  for at = 1, 4 do out[at] = string.format("%04x", math.random(0, 65535)) end
  return table.concat(out)
end

function envoy_on_request(handle)
  local key = handle:headers():get("idempotency-key")
  local owner = random()
  local payload = lookup(key) .. owner .. NO_FINGERPRINT .. TIMES
  if not ask(handle, ACQUIRE, payload, GRANTED) then
    handle:respond({ [":status"] = "503" }, "not granted")
    return
  end
  local metadata = handle:streamInfo():dynamicMetadata()
  metadata:set("callouts", "key", key)
  metadata:set("callouts", "owner", owner)
end

function envoy_on_response(handle)
  local mine = handle:streamInfo():dynamicMetadata():get("callouts")
  if mine == nil then return end
  local headers = handle:headers()
  local body = handle:body()
  local octets = body and body:getBytes(0, body:length()) or ""
  local status = number(tonumber(headers:get(":status")), 2)
  local kind = short("content-type") .. long(headers:get("content-type") or "")
  local outcome = "\0" .. status .. number(1, 2) .. kind .. long(octets)
  if not ask(handle, COMPLETE, lookup(mine.key) .. mine.owner .. outcome, COMPLETED) then
    headers:replace(":status", "503")
  end
end
