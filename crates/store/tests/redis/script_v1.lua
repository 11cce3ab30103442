-- What each event does to a record: the table of docs/semantics.md, inside the server, so that one
-- call is one atomic step on the server's clock. The Rust form of the same table, which this one
-- is compared with by the tests, is crates/store/src/machine/.
--
-- KEYS[1]  the record, a hash: `m` what is known of it (the layout below), `k` the owners that must
--          not be granted (25 bytes each: owner, kind, until), `o` the stored outcome. Everything
--          about one key is under this one name, so it lives in one Cluster slot.
-- ARGV[1]  the event. The rest, by event (times are microseconds, numbers are decimal):
--
--   acquire   owner, fingerprint, lease, ttl, unknown ttl, '1' to retry unknown, '1' to refuse
--             grants or '2' to make no new record, longest outcome to send along
--   complete  owner, OUTCOME
--   fail      owner
--   abandon   owner
--   extend    owner, lease
--   settle    fence, '1' done | '0' not done, OUTCOME if done
--   resolve   version, '1' to force, 'completed' | 'failed' | 'deleted', OUTCOME if completed
--   wait      fingerprint, fence, longest outcome to send along
--   outcome   digest
--   inspect   –
--   sweep     –
--
--   OUTCOME   status, '1' if there is a body, its size, digest, size of the encoded outcome, and
--             the encoded outcome itself
--
-- The answer is an array: a word, then what belongs to it. Numbers are below 2^53, which a double
-- holds exactly; they become RESP integers.
--
-- A function or a table costs its making in every call. So what nearly all calls come to is done
-- first, on the packed bytes: an acquire that finds nothing or a stored outcome, and a complete
-- that finds its own execution. Whatever else there is goes the long way below it.

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

local VACANT, EXECUTING, COMPLETED, FAILED, UNKNOWN = 0, 1, 2, 3, 4
local CANCELLED, SPENT = 0, 1
-- format (1), state, version, fence, attempt, owned, owner, fingerprint, created, changed, ttl,
-- unknown ttl, lease until, status, has body, body bytes, digest, size
local LAYOUT = '>BBI8I8I4Bc16c40I8I8I8I8I8I2BI8c32I8'
local MARK_TTL = 3600000000
local NO_OWNER = '\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0'
local NO_DIGEST = '\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0'
-- The fields of the layout from status on, where there is no outcome.
local NO_OUTCOME = '\0\0\0\0\0\0\0\0\0\0\0' .. NO_DIGEST .. '\0\0\0\0\0\0\0\0'
-- An execution that nobody looks at is kept a day longer than its lease and the TTL of what it then
-- is: the TTL of unknown counts from when somebody notices.
local GRACE = 86400000000

-- Never before the record's own end, which counts in microseconds. Lua itself would write a number of
-- this size as 1.7e+12.
local function expire_after(key, us)
  redis.call('PEXPIREAT', key, string.format('%.0f', (us - us % 1000) / 1000 + 1))
end

-- The record, and the argument before its event. What follows, up to the long way, is also the body of
-- a function that takes both: many records in one call (together.rs).
local key, at = KEYS[1], 0

-- The short way.

local event = ARGV[at + 1]
local stored = redis.call('HMGET', key, 'm', 'k')
local m = stored[1]

if not m then
  if event == 'acquire' and not stored[2] and ARGV[at + 8] == '2' then return { 'new' } end
  if event == 'acquire' and not stored[2] and ARGV[at + 8] == '0' then
    local unknown_ttl, until_ = tonumber(ARGV[at + 6]), now + ARGV[at + 4]
    redis.call('HSET', key, 'm', struct.pack('>BBI8I8I4Bc16c40I8I8I8I8I8', 1, EXECUTING, now, now,
      1, 1, ARGV[at + 2], ARGV[at + 3], now, now, ARGV[at + 5], unknown_ttl, until_) .. NO_OUTCOME)
    expire_after(key, until_ + unknown_ttl + GRACE)
    return { 'granted', now, 1, -1 }
  end
elseif event == 'complete' then
  -- Format 1, executing, owned by this owner; and no marks.
  if not stored[2] and m:sub(1, 2) == '\1\1' and m:sub(23, 39) == '\1' .. ARGV[at + 2] then
    local version, ttl = struct.unpack('>I8', m, 3), struct.unpack('>I8', m, 96)
    local last = now + ttl
    redis.call('HSET', key, 'm', struct.pack('>BBI8', 1, COMPLETED, math.max(version + 1, now))
      .. m:sub(11, 87) .. struct.pack('>I8', now) .. m:sub(96, 119)
      .. struct.pack('>I2BI8c32I8', ARGV[at + 3], ARGV[at + 4], ARGV[at + 5], ARGV[at + 6],
        ARGV[at + 7]), 'o', ARGV[at + 8])
    expire_after(key, last)
    redis.call('SPUBLISH', key, '')
    return { 'completed', (last - last % 1000) / 1000 }
  end
elseif event == 'acquire' then
  -- Format 1, completed, with this fingerprint.
  if m:sub(1, 2) == '\1\2' and m:sub(40, 79) == ARGV[at + 3] then
    local changed, ttl = struct.unpack('>I8I8', m, 88)
    local last, age = changed + ttl, now - changed
    if last > now then
      local fence, attempt = struct.unpack('>I8I4', m, 11)
      local outcome = struct.unpack('>I8', m, 163) <= tonumber(ARGV[at + 9])
        and redis.call('HGET', key, 'o')
      return { 'stored', fence, attempt, (age - age % 1000) / 1000, (last - last % 1000) / 1000,
        m:sub(131, 162), outcome }
    end
  end
end

-- The long way.

-- Reading.

local r, had_outcome
-- Owners that must not be granted, in the order in which they came; nil if there are none.
local marks

if stored[1] then
  local format, state, version, fence, attempt, owned, owner, fingerprint, created, changed, ttl,
    unknown_ttl, until_, status, has_body, body_bytes, digest, size =
    struct.unpack(LAYOUT, stored[1])
  if format ~= 1 then
    return redis.error_reply('IDEMFORMAT a record of format ' .. format .. ' cannot be read')
  end
  r = { state = state, version = version, fence = fence, attempt = attempt, owned = owned,
    owner = owner, fingerprint = fingerprint, created = created, changed = changed, ttl = ttl,
    unknown_ttl = unknown_ttl, until_ = until_, status = status, has_body = has_body,
    body_bytes = body_bytes, digest = digest, size = size }
  had_outcome = state == COMPLETED
  -- What is over behaves as absent at once, whether the server has removed it or not. An execution
  -- is never over. The fence outlives it all.
  if state == UNKNOWN then
    if changed + unknown_ttl <= now then r.state = VACANT end
  elseif state ~= EXECUTING and changed + ttl <= now then
    r.state = VACANT
  end
else
  r = { state = VACANT, version = 0, fence = 0, attempt = 0, owned = 0, owner = NO_OWNER,
    fingerprint = '\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0',
    created = 0, changed = 0, ttl = 0, unknown_ttl = 0, until_ = 0, status = 0, has_body = 0,
    body_bytes = 0, digest = NO_DIGEST, size = 0 }
end

if stored[2] then
  marks = {}
  for at = 1, #stored[2], 25 do
    local owner, kind, until_ = struct.unpack('>c16BI8', stored[2], at)
    if until_ > now then marks[#marks + 1] = { owner = owner, kind = kind, until_ = until_ } end
  end
end

local running = r.state == EXECUTING and r.until_ > now
local lapsed = r.state == EXECUTING and r.until_ <= now
-- Where the event has an owner: whether it is that of the execution.
local mine = r.state ~= VACANT and r.owned == 1 and r.owner == ARGV[2]

local function ms(us) return (us - us % 1000) / 1000 end

local function expires_at()
  if r.state == UNKNOWN then return r.changed + r.unknown_ttl end
  return r.changed + r.ttl
end

-- Writing.

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

-- Writes the record; `outcome` if there is a new one.
local function put(outcome)
  r.version = math.max(r.version + 1, now)
  local m = struct.pack(LAYOUT, 1, r.state, r.version, r.fence, r.attempt, r.owned, r.owner,
    r.fingerprint, r.created, r.changed, r.ttl, r.unknown_ttl, r.until_, r.status, r.has_body,
    r.body_bytes, r.digest, r.size)
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
  if outcome then
    redis.call('HSET', key, 'm', m, 'o', outcome)
  else
    redis.call('HSET', key, 'm', m)
    if had_outcome and r.state ~= COMPLETED then redis.call('HDEL', key, 'o') end
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
  return m
end

-- Acquire.

local function grant()
  if ARGV[8] == '1' then return { 'capacity' } end
  if ARGV[8] == '2' and r.state == VACANT then return { 'new' } end
  if r.state ~= VACANT then
    if r.owned == 1 then mark(r.owner, SPENT) end
    r.attempt = r.attempt + 1
  else
    r.attempt, r.created = 1, now
  end
  r.state, r.changed = EXECUTING, now
  r.fence = math.max(r.fence + 1, now)
  r.owned, r.owner, r.fingerprint = 1, ARGV[2], ARGV[3]
  r.ttl, r.unknown_ttl = tonumber(ARGV[5]), tonumber(ARGV[6])
  r.until_ = now + tonumber(ARGV[4])
  r.status, r.has_body, r.body_bytes, r.digest, r.size = 0, 0, 0, NO_DIGEST, 0
  put()
  return { 'granted', r.fence, r.attempt, -1 }
end

local function replay(longest)
  local outcome = false
  if r.size <= longest then outcome = redis.call('HGET', key, 'o') end
  return { 'stored', r.fence, r.attempt, ms(now - r.changed), ms(expires_at()), r.digest, outcome }
end

-- Complete.

-- Tells those who wait for the execution. The channel has the record's name, hence its slot.
local function wake() redis.call('SPUBLISH', key, '') end

-- `at`: where in ARGV the outcome begins.
local function complete(at)
  r.state, r.changed = COMPLETED, now
  r.status, r.has_body = tonumber(ARGV[at]), tonumber(ARGV[at + 1])
  r.body_bytes, r.digest, r.size = tonumber(ARGV[at + 2]), ARGV[at + 3], tonumber(ARGV[at + 4])
  local m = put(ARGV[at + 5])
  wake()
  return { 'completed', ms(expires_at()) }, m
end

local function completed_before(digest)
  if r.digest == digest then return { 'completed', ms(expires_at()) } end
  return { 'differs' }
end

if event == 'complete' then
  if mine then
    if r.state == EXECUTING or r.state == UNKNOWN then return (complete(3)) end
    if r.state == COMPLETED then return completed_before(ARGV[6]) end
  end
  return { 'lost' }
end

-- The rest.

local function decimal(n) return string.format('%.0f', n) end

local function enter(state)
  r.state, r.changed = state, now
  r.status, r.has_body, r.body_bytes, r.digest, r.size = 0, 0, 0, NO_DIGEST, 0
  local m = put()
  wake()
  return m
end

local function fail()
  enter(FAILED)
  return { 'failed' }
end

local function lapse(answer)
  enter(UNKNOWN)
  return answer or { 'unknown_outcome', ms(expires_at()) }
end

local function barred(kind) return { kind == CANCELLED and 'cancelled' or 'spent' } end

-- Remembers an owner that holds nothing: its acquire may still come.
local function leave_mark(owner, answer)
  if not mine and not mark_of(owner) then
    mark(owner, CANCELLED)
    put()
  end
  return { answer }
end

if event == 'acquire' then
  local fingerprint, retry = ARGV[3], ARGV[7] == '1'
  local barred_by = mark_of(ARGV[2])
  if r.state == VACANT then
    if barred_by then return barred(barred_by) end
    return grant()
  end
  -- The fingerprint before the state, its scheme (the first 8 bytes) before its digest.
  if r.fingerprint ~= fingerprint then
    if r.fingerprint:sub(1, 8) ~= fingerprint:sub(1, 8) then return { 'not_comparable' } end
    return { 'mismatch' }
  end
  local lease_left = ms(math.max(r.until_ - now, 0))
  -- What is left of the lease is told: it has been running since the first acquire.
  if running and mine then return { 'granted', r.fence, r.attempt, lease_left } end
  if barred_by then return barred(barred_by) end
  if running then return { 'in_flight', r.fence, lease_left } end
  if r.state == FAILED then
    if mine then return barred(SPENT) end
    return grant()
  end
  if retry and not mine then return grant() end
  if lapsed then return lapse(retry and { 'spent' } or nil) end
  if retry then return barred(SPENT) end
  return { 'unknown_outcome', ms(expires_at()) }
end

if event == 'fail' then
  local owner = ARGV[2]
  if r.state == VACANT then return leave_mark(owner, 'marked') end
  if r.state == EXECUTING and mine then return fail() end
  if r.state == FAILED and mine then return { 'failed' } end
  if r.state == EXECUTING or r.state == FAILED then return leave_mark(owner, 'lost') end
  return leave_mark(owner, 'refused')
end

if event == 'abandon' then
  local owner = ARGV[2]
  if r.state == VACANT then return leave_mark(owner, 'marked') end
  if r.state == EXECUTING and mine then return lapse({ 'abandoned' }) end
  if r.state == UNKNOWN and mine then return { 'abandoned' } end
  if r.state == EXECUTING or r.state == UNKNOWN then return leave_mark(owner, 'lost') end
  return leave_mark(owner, 'refused')
end

if event == 'extend' then
  if r.state == EXECUTING and mine then
    r.until_ = now + tonumber(ARGV[3])
    put()
    return { 'extended' }
  end
  if r.state == VACANT or r.state == EXECUTING then return { 'lost' } end
  return { 'refused' }
end

if event == 'settle' then
  if r.state == VACANT or decimal(r.fence) ~= ARGV[2] then return { 'lost' } end
  local done = ARGV[3] == '1'
  if r.state == EXECUTING or r.state == UNKNOWN then
    if done then return (complete(4)) end
    return fail()
  end
  if r.state == COMPLETED and done then return completed_before(ARGV[7]) end
  if r.state == FAILED and not done then return { 'failed' } end
  return { 'refused' }
end

if event == 'resolve' then
  if r.state == VACANT then return { 'no_such_key' } end
  if decimal(r.version) ~= ARGV[2] then return { 'version_changed', now, stored[1] } end
  if running and ARGV[3] ~= '1' then return { 'executing', now, stored[1] } end
  -- Whoever held the key is from now on an owner that has settled.
  if r.owned == 1 then
    mark(r.owner, SPENT)
    r.owned, r.owner = 0, NO_OWNER
  end
  if ARGV[4] == 'completed' then
    local _, m = complete(5)
    return { 'done', now, m }
  end
  return { 'done', now, enter(ARGV[4] == 'failed' and FAILED or VACANT) }
end

if event == 'wait' then
  if r.state == VACANT or r.fingerprint ~= ARGV[2] or decimal(r.fence) ~= ARGV[3] then
    return { 'changed' }
  end
  if running then return { 'waiting', math.max(ms(r.until_ - now + 999), 1) } end
  if r.state == COMPLETED then return replay(tonumber(ARGV[4])) end
  return { 'changed' }
end

if event == 'outcome' then
  if r.state ~= COMPLETED or r.digest ~= ARGV[2] then return { 'changed' } end
  return { 'outcome', redis.call('HGET', key, 'o') }
end

if event == 'inspect' then
  if r.state == VACANT then return { 'none' } end
  return { 'record', now, stored[1] }
end

if event == 'sweep' then
  if not lapsed then return { 'kept' } end
  return lapse({ 'lapsed' })
end

return redis.error_reply('IDEMEVENT there is no event ' .. event)
