-- The long way, first part: the record as it is now, unpacked.

-- The record; what is remembered of its attempts.
local r, h
local had_outcome
-- Owners that must not be granted, in the order in which they came; nil if there are none.
local marks

if m then
  local format, state = m:byte(1, 2)
  local known = format == 1 and state <= UNKNOWN or format == 2 and state == SETTLED
  if #m ~= SIZE or not known then return { 'illegible' } end
  local _, version, fence, attempt, owned, owner, fingerprint, created, changed, ttl, unknown_ttl,
    until_, status, has_body, body_bytes, digest, size
  _, _, version, fence, attempt, owned, owner, fingerprint, created, changed, ttl, unknown_ttl,
    until_, status, has_body, body_bytes, digest, size = struct.unpack(LAYOUT, m)
  r = { state = state, version = version, fence = fence, attempt = attempt, owned = owned,
    owner = owner, fingerprint = fingerprint, created = created, changed = changed, ttl = ttl,
    unknown_ttl = unknown_ttl, until_ = until_, status = status, has_body = has_body,
    body_bytes = body_bytes, digest = digest, size = size }
  had_outcome = state == COMPLETED or state == SETTLED
  -- Nobody can still attach anything: the upstream's own outcome is what stays.
  if state == SETTLED and until_ <= now then r.state = COMPLETED end
  -- What is over behaves as absent at once, whether the server has removed it or not. An execution
  -- is never over. The fence outlives it all.
  if state == UNKNOWN then
    if changed + unknown_ttl <= now then r.state = VACANT end
  elseif r.state ~= EXECUTING and r.state ~= SETTLED and changed + ttl <= now then
    r.state = VACANT
  end
else
  r = { state = VACANT, version = 0, fence = 0, attempt = 0, owned = 0, owner = NO_OWNER,
    fingerprint = '\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0',
    created = 0, changed = 0, ttl = 0, unknown_ttl = 0, until_ = 0, status = 0, has_body = 0,
    body_bytes = 0, digest = NO_DIGEST, size = 0 }
end

-- An operator sees what can be read of it, hence before anything below is found illegible.
if event == 'inspect' then
  if r.state == VACANT then return { 'none' } end
  return { 'record', now, m, x }
end

if stored[2] then
  if #stored[2] % 25 ~= 0 then return { 'illegible' } end
  marks = {}
  for from = 1, #stored[2], 25 do
    local owner, kind, until_ = struct.unpack('>c16BI8', stored[2], from)
    if until_ > now then marks[#marks + 1] = { owner = owner, kind = kind, until_ = until_ } end
  end
end

-- What is remembered of the attempts.

local GATEWAY, TRANSACTION, RELAYED = 0, 2, 3
local DOUBT, EFFECTS = 1, 2
local MAX_PAST, PAST_SIZE = 8, 18
local MAX_REDIRECTS, REDIRECT_HEAD = 4, 64

-- Raises an error where something is cut off.
local function parsed()
  local _, flags, kinds, newest, started, count, from = struct.unpack('>BBBBI8B', x, 17)
  assert(flags <= DOUBT + EFFECTS and newest <= RELAYED)
  local past = x:sub(from, from + count * PAST_SIZE - 1)
  for at = 1, count * PAST_SIZE, PAST_SIZE do
    local kind, how = struct.unpack('>BBI8I8', past, at)
    assert(kind <= RELAYED and how <= 1)
  end
  count, from = struct.unpack('B', x, from + count * PAST_SIZE)
  local redirects = {}
  for i = 1, count do
    local fingerprint, fence, attempt, answered, length = struct.unpack('>c40I8I4I8I4', x, from)
    local after = from + REDIRECT_HEAD + length
    redirects[i] = { fingerprint = fingerprint, fence = fence, attempt = attempt,
      answered = answered, outcome = x:sub(from + REDIRECT_HEAD, after - 1),
      bytes = x:sub(from, after - 1) }
    from = after
  end
  -- The texts are copied as they are: the name of the sealing key, and what is told of the request.
  local texts = x:sub(from)
  from = from + 2 + struct.unpack('>I2', x, from)
  local told
  told, from = struct.unpack('B', x, from)
  assert(told <= 1)
  for _ = 1, told * 7 do from = from + 2 + struct.unpack('>I2', x, from) end
  assert(from == #x + 1)
  return { doubt = flags % 2 == DOUBT, effects = flags >= EFFECTS, kinds = kinds, newest = newest,
    started = started, past = past, redirects = redirects, texts = texts }
end

-- `x` belongs to this record only if both were created together: the previous release forgets a
-- record and makes another one without a look at it.
local of, version
if x then
  if #x < 17 then return { 'illegible' } end
  of, version = struct.unpack('>I8I8', x)
end
if of == r.created and m then
  -- Also of a record that is over: a later release may know that it is not.
  if x:byte(17) ~= HISTORY then return { 'illegible' } end
  if r.state ~= VACANT then
    local ok, history = pcall(parsed)
    if not ok then return { 'illegible' } end
    h = history
    -- The previous release has changed the record since. What only grows still holds. Why it
    -- failed an attempt is not told, and whatever it granted was a gateway's. (A complete changes the
    -- record without `x`, too, and nothing of this matters for a completed one.)
    if version ~= r.version and r.state ~= COMPLETED then
      h.effects, h.kinds, h.newest = true, bit.bor(h.kinds, 1), GATEWAY
    end
  end
elseif r.state ~= VACANT then
  -- Of the previous release (`History::of_old`).
  h = { doubt = false, effects = true, kinds = 1, newest = GATEWAY, started = r.created, past = '',
    redirects = {}, texts = '\0\0\0' }
end

local running = r.state == EXECUTING and r.until_ > now
local lapsed = r.state == EXECUTING and r.until_ <= now
-- Where the event has an owner: whether it is that of the execution.
local mine = r.state ~= VACANT and r.owned == 1 and r.owner == ARGV[2]

local function ms(us) return (us - us % 1000) / 1000 end

local function decimal(n) return string.format('%.0f', n) end

local function expires_at()
  if r.state == UNKNOWN then return r.changed + r.unknown_ttl end
  if r.state == SETTLED then return math.max(r.changed + r.ttl, r.until_) end
  return r.changed + r.ttl
end

local function lease_left() return ms(math.max(r.until_ - now, 0)) end
