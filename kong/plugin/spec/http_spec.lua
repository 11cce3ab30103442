-- Where an answer ends: the strict reading of `http.lua`, over a socket that gives what a test says.

local http = require "kong.plugins.idempotency.http"

-- A socket as nginx has it, that gives `text` in pieces of `step` bytes, then "closed" (or `last`).
local function socket(text, step, last)
  local at = 1
  local sock = {}
  function sock:receive(what)
    equal(what, "*l")
    local stop = text:find("\n", at, true)
    if not stop then
      local partial = text:sub(at)
      at = #text + 1
      return nil, last or "closed", partial
    end
    local line = text:sub(at, stop - 1):gsub("\r", "")
    at = stop + 1
    return line
  end
  function sock:receiveany(most)
    if at > #text then
      return nil, last or "closed", ""
    end
    local piece = text:sub(at, at + math.min(most, step or 3) - 1)
    at = at + #piece
    return piece
  end
  function sock:rest()
    return text:sub(at)
  end
  return sock
end

local function read(text, method, last)
  local sock = socket(text, 3, last)
  local answer, err = http.read_head(sock, method or "POST")
  if not answer then
    return nil, err
  end
  local pieces, trailers = {}, 0
  local whole, why = http.read_body(sock, answer, function(piece)
    pieces[#pieces + 1] = piece
  end, function()
    trailers = trailers + 1
  end)
  return { answer = answer, body = table.concat(pieces), whole = whole, why = why, trailers = trailers,
           rest = sock:rest() }
end

local HEAD = "HTTP/1.1 200 OK\r\n"

test("bodies of each framing are whole at their end", function()
  for _, case in ipairs({
    { "Content-Length: 5\r\n\r\nhelloNEXT", "hello", "NEXT", true },
    { "Content-Length: 0\r\n\r\nNEXT", "", "NEXT", true },
    { "Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;a=b\r\nllo\r\n0\r\n\r\nNEXT", "hello", "NEXT", true },
    { "Transfer-Encoding: Chunked\r\n\r\n00\r\n\r\nNEXT", "", "NEXT", true },
    { "\r\nhello", "hello", "", false },
    { "Content-Length: 5\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello", "hello", "", false },
  }) do
    local got = read(HEAD .. case[1])
    equal(got.whole, true, case[1])
    equal(got.body, case[2], case[1])
    equal(got.rest, case[3], case[1])
    equal(got.answer.kept, case[4], case[1])
  end
end)

test("what is cut is not whole", function()
  for _, text in ipairs({
    "Content-Length: 6\r\n\r\nhello",
    "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    "Transfer-Encoding: chunked\r\n\r\n5\r\nhel",
    "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
    "Transfer-Encoding: chunked\r\n\r\nx\r\nhello\r\n0\r\n\r\n",
    "Transfer-Encoding: chunked\r\n\r\n5\r\nhello!\r\n0\r\n\r\n",
    "Transfer-Encoding: chunked\r\n\r\n",
  }) do
    local got = read(HEAD .. text)
    equal(got.whole, nil, text)
    equal(type(got.why), "string", text)
  end
  local got = read(HEAD .. "\r\nhello", "POST", "timeout")
  equal(got.whole, nil)
  equal(got.why, "timeout")
end)

test("a head that can be read in two ways is none", function()
  for _, text in ipairs({
    "Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "Content-Length: 1, 1\r\n\r\na",
    "Content-Length: -1\r\n\r\n",
    "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "X-A : b\r\n\r\n",
    " X-A: b\r\n\r\n",
    "X-A: b\r\n c\r\n\r\n",
    "X-A: b\0c\r\n\r\n",
    "no colon\r\n\r\n",
  }) do
    local got, err = read(HEAD .. text)
    equal(got, nil, text)
    equal(err, "malformed", text)
  end
  for _, text in ipairs({ "hello\r\n\r\n", "HTTP/2 200\r\n\r\n", "HTTP/1.1 20\r\n\r\n", "HTTP/1.1 2000 OK\r\n\r\n",
                          "HTTP/1.1 101 Switching\r\n\r\n", "HTTP/1.1 099 X\r\n\r\n" }) do
    local got, err = read(text)
    equal(got, nil, text)
    equal(err, "malformed", text)
  end
  equal(select(2, read("")), "closed")
  equal(select(2, read("HTTP/1.1 200 OK\r\n", "POST", "timeout")), "timeout")
end)

test("interim answers are passed over, and empty ones have no body", function()
  local got = read("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 201 Created\r\n"
                   .. "Content-Length: 2\r\n\r\nok")
  equal(got.answer.status, 201)
  equal(#got.answer.fields, 1)
  equal(got.body, "ok")
  for _, status in ipairs({ 204, 304 }) do
    got = read("HTTP/1.1 " .. status .. " x\r\nContent-Length: 5\r\n\r\nNEXT")
    equal(got.body, "")
    equal(got.rest, "NEXT")
  end
  equal(read(HEAD .. "Content-Length: 5\r\n\r\nNEXT", "HEAD").rest, "NEXT")
end)

test("trailers are told", function()
  local got = read(HEAD .. "Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX-Sum: 1\r\n\r\nNEXT")
  equal(got.whole, true)
  equal(got.trailers, 1)
  equal(got.rest, "NEXT")
end)

test("connections are kept by what both versions say", function()
  for _, case in ipairs({
    { "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", true },
    { "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: X, Close\r\n\r\n", false },
    { "HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", false },
    { "HTTP/1.0 200 OK\r\nContent-Length: 0\r\nConnection: Keep-Alive\r\n\r\n", true },
  }) do
    equal(read(case[1]).answer.kept, case[2], case[1])
  end
end)

test("heads of requests cannot be broken out of", function()
  equal(http.head("POST", "/a?b", { { "Host", "x" }, { "X-A", "" } }), "POST /a?b HTTP/1.1\r\nHost: x\r\nX-A: \r\n\r\n")
  for _, case in ipairs({
    { "POST", "/a b", {} },
    { "POST", "/a\r\nX: y", {} },
    { "PO\nST", "/a", {} },
    { "POST", "/a", { { "X", "a\r\nb: c" } } },
    { "POST", "/a", { { "X", "a\0" } } },
    { "POST", "/a", { { "X: y", "a" } } },
    { "POST", "/a", { { "", "a" } } },
  }) do
    equal(http.head(unpack(case)), nil, case[2])
  end
end)
