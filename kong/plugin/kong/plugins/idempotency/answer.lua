-- Answers to clients: whole ones, and those that stream.

local ngx = ngx

local _M = {}

-- By these, nginx would make a 304 or a 412 of an answer that did not come of its proxy.
local CONDITIONS = { "If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since", "If-Range", "Range" }

-- nginx writes these itself, as it does for what it proxies.
local NGINX = { date = true, server = true, ["content-length"] = true, ["transfer-encoding"] = true, connection = true }

-- Fields as Kong and nginx take them: name → value, or a list of values where it is repeated.
function _M.headers(fields)
  local headers = {}
  for i = 1, #fields do
    local name, value = fields[i][1], fields[i][2]
    local lowered = name:lower()
    if not NGINX[lowered] and lowered:sub(1, 8) ~= "x-accel-" then
      local known = headers[lowered]
      if known == nil then
        headers[lowered] = value
      elseif type(known) == "table" then
        known[#known + 1] = value
      else
        headers[lowered] = { known, value }
      end
    end
  end
  return headers
end

local function without_conditions()
  for i = 1, #CONDITIONS do
    ngx.req.clear_header(CONDITIONS[i])
  end
end

-- By these statuses, ngx.exit means the end of the connection, and the client would get nothing.
local ENDS_CONNECTION = { [408] = true, [444] = true, [499] = true }

-- Answers the client, and ends its request.
function _M.whole(reply)
  if ENDS_CONNECTION[reply.status] then
    local answer = _M.stream(reply.status, reply.fields, #reply.body)
    answer:piece(reply.body)
    return answer:finish()
  end
  without_conditions()
  return kong.response.exit(reply.status, reply.body, _M.headers(reply.fields))
end

-- A stream to the client. A client that leaves, or that reads no more, ends nothing: what comes after that goes nowhere.
local stream = {}
stream.__index = stream

-- Sends the head. `length`: of the body, if it is known; then its last piece must be held back until `finish`, since a
-- client is done when it has all of it.
function _M.stream(status, fields, length)
  without_conditions()
  ngx.status = status
  for name, value in pairs(_M.headers(fields)) do
    ngx.header[name] = value
  end
  if length then
    ngx.header["content-length"] = length
  end
  local self = setmetatable({ left = length, status = status }, stream)
  self.gone = not ngx.send_headers()
  if not self.gone and not ngx.flush(true) then
    self.gone = true
  end
  return self
end

function stream:write(piece)
  if self.gone then
    return
  end
  if not ngx.print(piece) or not ngx.flush(true) then
    self.gone = true
  end
end

function stream:piece(piece)
  if self.left then
    self.left = self.left - #piece
    if self.left <= 0 then
      self.held = (self.held or "") .. piece
      return
    end
  end
  self:write(piece)
end

-- Ends the answer. By its status: ngx.OK would let the request go on to the proxy, if the head has not left.
function stream:finish()
  if self.held then
    self:write(self.held)
  end
  ngx.eof()
  return ngx.exit(ENDS_CONNECTION[self.status] and 200 or self.status)
end

-- Breaks the connection, so that nobody takes what has come for a whole answer.
function stream:cut()
  return ngx.exit(ngx.ERROR)
end

return _M
