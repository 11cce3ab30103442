-- The long way, second part: what changes a record.

local function mark_of(owner)
  for _, mark in ipairs(marks or {}) do
    if mark.owner == owner then return mark.kind end
  end
end

local function mark(owner, kind)
  if mark_of(owner) then return end
  marks = marks or {}
  if #marks >= 16 then table.remove(marks, 1) end
  marks[#marks + 1] = { owner = owner, kind = kind, until_ = now + MARK_TTL }
end

local function packed()
  return struct.pack(LAYOUT, r.state == SETTLED and 2 or 1, r.state, r.version, r.fence, r.attempt,
    r.owned, r.owner, r.fingerprint, r.created, r.changed, r.ttl, r.unknown_ttl, r.until_, r.status,
    r.has_body, r.body_bytes, r.digest, r.size)
end

local function packed_history()
  local redirects = {}
  for i, each in ipairs(h.redirects) do redirects[i] = each.bytes end
  local flags = (h.doubt and DOUBT or 0) + (h.effects and EFFECTS or 0)
  return struct.pack('>I8I8BBBBI8B', r.created, r.version, HISTORY, flags, h.kinds, h.newest,
    h.started, #h.past / PAST_SIZE) .. h.past .. string.char(#redirects)
    .. table.concat(redirects) .. h.texts
end

-- Writes the record; `outcome` if there is a new one. `m` and `x` are then what is stored.
local function put(outcome)
  r.version = math.max(r.version + 1, now)
  m = packed()
  local last
  if r.state == EXECUTING then
    last = r.until_ + r.unknown_ttl + GRACE
  elseif r.state == VACANT then
    -- So that a key that is used again at once still gets a larger fence and version.
    last = now + MARK_TTL
  else
    last = expires_at()
  end
  -- The first write tells whether there is memory, and is refused before anything has changed.
  if r.state == VACANT then
    redis.call('HSET', key, 'm', m)
    if x or had_outcome then redis.call('HDEL', key, 'o', 'x') end
    x = false
  else
    x = packed_history()
    if outcome then
      redis.call('HSET', key, 'm', m, 'x', x, 'o', outcome)
    else
      redis.call('HSET', key, 'm', m, 'x', x)
      if had_outcome and r.state ~= COMPLETED and r.state ~= SETTLED then
        redis.call('HDEL', key, 'o')
      end
    end
  end
  if marks and #marks > 0 then
    local k = {}
    for i, each in ipairs(marks) do
      k[i] = struct.pack('>c16BI8', each.owner, each.kind, each.until_)
      last = math.max(last, each.until_)
    end
    redis.call('HSET', key, 'k', table.concat(k))
  elseif stored[2] then
    redis.call('HDEL', key, 'k')
  end
  expire_after(key, last)
end

-- Tells those who wait for the execution. The channel has the record's name, hence its slot.
local function wake() redis.call('SPUBLISH', key, '') end

-- The record is done, with the outcome that begins at that argument.
local function done(state, argument)
  r.state, r.changed = state, now
  r.status, r.has_body = tonumber(ARGV[argument]), tonumber(ARGV[argument + 1])
  r.body_bytes, r.digest = tonumber(ARGV[argument + 2]), ARGV[argument + 3]
  r.size = tonumber(ARGV[argument + 4])
  put(ARGV[argument + 5])
  wake()
  return { 'completed', ms(expires_at()) }
end

local function enter(state)
  r.state, r.changed = state, now
  r.status, r.has_body, r.body_bytes, r.digest, r.size = 0, 0, 0, NO_DIGEST, 0
  put()
  wake()
end

local function completed_before(digest)
  if r.digest == digest then return { 'completed', ms(expires_at()) } end
  return { 'differs' }
end

local function lapse(answer)
  enter(UNKNOWN)
  return answer or { 'unknown_outcome', ms(expires_at()) }
end

-- The newest attempt did nothing, or may be repeated. An earlier one may still have been done.
local function fail(cause, redirect)
  if h.doubt then return lapse({ 'abandoned' }) end
  if cause == '0' then
    h.effects = true
  elseif cause == '2' then
    -- One that the same request got before makes room first, then the oldest.
    for i = #h.redirects, 1, -1 do
      if h.redirects[i].fingerprint == r.fingerprint then table.remove(h.redirects, i) end
    end
    if #h.redirects >= MAX_REDIRECTS then table.remove(h.redirects, 1) end
    h.redirects[#h.redirects + 1] = { fingerprint = r.fingerprint, bytes = struct.pack(
      '>c40I8I4I8I4', r.fingerprint, r.fence, r.attempt, now, #redirect) .. redirect }
  end
  enter(FAILED)
  return { 'failed' }
end

-- Remembers an owner that holds nothing: its acquire may still come.
local function leave_mark(owner, answer)
  if not mine and not mark_of(owner) then
    mark(owner, CANCELLED)
    put()
  end
  return { answer }
end

-- With the status, the sizes and the digest as they are stored.
local function replay(longest)
  local outcome = false
  if r.size <= longest then outcome = redis.call('HGET', key, 'o') end
  return { 'stored', r.fence, r.attempt, ms(now - r.changed), ms(expires_at()), m:sub(120, 162),
    outcome }
end
