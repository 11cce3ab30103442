-- HTTP/1.1 over a socket that is connected: one request, one answer, and a strict look at where the answer ends.
--
-- An answer counts as whole only if its own framing says so: all of `content-length`, the last chunk, or the end of the
-- connection where neither is there. Framing that can be read in two ways is no framing (RFC 9112 §6.3).

local find, lower, match = string.find, string.lower, string.match

local _M = {}

-- How much of a body is read at a time.
local PIECE = 65536
-- Longest line of a head, and most lines of one.
local MAX_LINE = 65536
local MAX_LINES = 1000

-- A value that cannot be put into a line of a head.
local function is_unsafe(value)
  return find(value, "[%z\r\n]") ~= nil
end

-- The head of a request, or nil. `fields`: a list of { name, value }.
function _M.head(method, target, fields)
  if is_unsafe(method) or find(target, "[%z\1-\32\127]") then
    return nil
  end
  local lines = { method .. " " .. target .. " HTTP/1.1\r\n" }
  for i = 1, #fields do
    local name, value = fields[i][1], fields[i][2]
    if is_unsafe(value) or find(name, "[^!#$%%&'*+%-.^_`|~%w]") or name == "" then
      return nil
    end
    lines[i + 1] = name .. ": " .. value .. "\r\n"
  end
  lines[#lines + 1] = "\r\n"
  return table.concat(lines)
end

-- One line without its end. (cosockets' "*l" drops every CR; what is left of a line is all that matters here.)
local function line(sock)
  local got, err, partial = sock:receive("*l")
  if not got then
    return nil, err, partial
  end
  if #got > MAX_LINE then
    return nil, "malformed"
  end
  return got
end

-- Fields up to the empty line: a list of { name, value } with names as they came.
local function read_fields(sock)
  local fields = {}
  for _ = 1, MAX_LINES do
    local got, err = line(sock)
    if not got then
      return nil, err
    end
    if got == "" then
      return fields
    end
    local name, value = match(got, "^([!#$%%&'*+%-.^_`|~%w]+):[ \t]*(.-)[ \t]*$")
    -- A name that is followed by a space, and a line that goes on the one before, are read in more than one way.
    if not name or is_unsafe(value) then
      return nil, "malformed"
    end
    fields[#fields + 1] = { name, value }
  end
  return nil, "malformed"
end

-- How a body ends: "none", "length", "chunked", "close"; nil where nobody can tell.
local function framing(status, method, fields)
  local length, chunked
  for i = 1, #fields do
    local name, value = lower(fields[i][1]), fields[i][2]
    if name == "content-length" then
      if not match(value, "^%d+$") or #value > 15 or (length and length ~= tonumber(value)) then
        return nil
      end
      length = tonumber(value)
    elseif name == "transfer-encoding" then
      if chunked or lower(value) ~= "chunked" then
        return nil
      end
      chunked = true
    end
  end
  if method == "HEAD" or status == 204 or status == 304 then
    return "none", 0
  end
  if chunked then
    if length then
      return nil
    end
    return "chunked"
  end
  if length then
    return length == 0 and "none" or "length", length
  end
  return "close"
end

-- Whether the connection may be used again.
local function keeps(version, fields)
  local kept = version == "1"
  for i = 1, #fields do
    if lower(fields[i][1]) == "connection" then
      local value = "," .. lower(fields[i][2]):gsub("%s", "") .. ","
      if find(value, ",close,", 1, true) then
        return false
      end
      if find(value, ",keep-alive,", 1, true) then
        kept = true
      end
    end
  end
  return kept
end

-- The head of the final answer: { status, fields, framing, length, kept }; nil and "timeout", "closed", "malformed" or
-- what else the socket says.
function _M.read_head(sock, method)
  for _ = 1, 10 do
    local got, err = line(sock)
    if not got then
      return nil, err
    end
    local version, status = match(got, "^HTTP/1%.([01]) (%d%d%d)")
    if not version or not match(got, "^HTTP/1%.[01] %d%d%d *$") and not match(got, "^HTTP/1%.[01] %d%d%d ") then
      return nil, "malformed"
    end
    status = tonumber(status)
    local fields, why = read_fields(sock)
    if not fields then
      return nil, why
    end
    if status == 101 or status < 100 then
      return nil, "malformed"
    end
    -- Interim answers (100, 103) are for this connection alone.
    if status >= 200 then
      local kind, length = framing(status, method, fields)
      if not kind then
        return nil, "malformed"
      end
      return {
        status = status,
        fields = fields,
        framing = kind,
        length = length,
        kept = kind ~= "close" and keeps(version, fields),
      }
    end
  end
  return nil, "malformed"
end

-- Exactly `length` bytes, in pieces.
local function read_length(sock, length, each)
  local left = length
  while left > 0 do
    local want = left < PIECE and left or PIECE
    -- What is there, without waiting for all of it: streams stream.
    local got, err, partial = sock:receiveany(want)
    local piece = got or partial
    if piece and piece ~= "" then
      left = left - #piece
      each(piece)
    end
    if not got then
      if left == 0 then
        return true
      end
      return nil, err or "closed"
    end
  end
  return true
end

local function read_chunks(sock, each, trailers)
  while true do
    local got, err = line(sock)
    if not got then
      return nil, err
    end
    local digits = match(got, "^(%x+)[ \t]*$") or match(got, "^(%x+)[ \t]*;")
    if not digits or #digits > 12 then
      return nil, "malformed"
    end
    local size = tonumber(digits, 16)
    if size == 0 then
      local fields, why = read_fields(sock)
      if not fields then
        return nil, why
      end
      if #fields > 0 then
        trailers()
      end
      return true
    end
    local ok, why = read_length(sock, size, each)
    if not ok then
      return nil, why
    end
    local rest, cut = line(sock)
    if rest ~= "" then
      return nil, cut or "malformed"
    end
  end
end

local function read_to_end(sock, each)
  while true do
    local got, err, partial = sock:receiveany(PIECE)
    local piece = got or partial
    if piece and piece ~= "" then
      each(piece)
    end
    if not got then
      if err == "closed" then
        return true
      end
      return nil, err
    end
  end
end

-- The body, piece by piece: true where it is whole; nil and why where it was cut. `trailers` is called if there are any.
function _M.read_body(sock, answer, each, trailers)
  if answer.framing == "none" then
    return true
  end
  if answer.framing == "length" then
    return read_length(sock, answer.length, each)
  end
  if answer.framing == "chunked" then
    return read_chunks(sock, each, trailers)
  end
  return read_to_end(sock, each)
end

-- The first value of a field.
function _M.field(fields, wanted)
  for i = 1, #fields do
    if lower(fields[i][1]) == wanted then
      return fields[i][2]
    end
  end
end

return _M
