-- (The clock stands before this text: clock.lua.)
--
-- What one tenant has, where there are quotas: one entry per record, which ends by itself when the
-- record does. The records of a tenant are spread over all Cluster slots, so this cannot be one step
-- with a change of a record; docs/adr/0010-quotas.md says what follows from that.
--
-- KEYS[1]  sorted set: entries by the end of their record
-- KEYS[2]  sorted set: entries that are being executed, by the end of their lease
-- KEYS[3]  hash: of each entry the ttl, the unknown ttl and the bytes of its record; `bytes`, the sum
-- ARGV[1]  the event. The rest, by event (times are microseconds, numbers are decimal):
--
--   reserve  entry, lease, ttl, unknown ttl, bytes, quotas of executions, records and bytes ('': none)
--   hold     entry, lease, ttl, unknown ttl, bytes
--   extend   entry, lease
--   idle     entry
--   end      entry, 'completed' | 'failed' | 'unknown', bytes, end ('' if it is to be counted from now)
--   forget   entry
--   note     any number of: entry, end of the lease (0: not executing), end, ttl, unknown ttl, bytes. Names
--            those in its reply that it has put
--   undo     the same: forgets those that are still as `note` has put them

local ends, leases, facts = KEYS[1], KEYS[2], KEYS[3]
-- Most entries that one call forgets; the others are not counted as records all the same.
local MOST = 256

-- Lua itself would write a number of this size as 1.7e+15.
local function decimal(n) return string.format('%.0f', n) end

local function fact(entry)
  local packed = redis.call('HGET', facts, entry)
  if packed then return packed, struct.unpack('>I8I8I8', packed) end
end

local function forget(entry)
  local packed, _, _, bytes = fact(entry)
  if packed then
    redis.call('HDEL', facts, entry)
    if bytes > 0 then redis.call('HINCRBY', facts, 'bytes', decimal(-bytes)) end
  end
  redis.call('ZREM', ends, entry)
  redis.call('ZREM', leases, entry)
end

-- All that is known of a tenant ends with its last record.
local function last_until(us)
  local ms = decimal((us - us % 1000) / 1000 + 1)
  for _, key in ipairs(KEYS) do
    if redis.call('PEXPIREAT', key, ms, 'GT') == 0 and redis.call('PTTL', key) == -1 then
      redis.call('PEXPIREAT', key, ms)
    end
  end
end

local function put(entry, until_, last, ttl, unknown_ttl, bytes)
  local before, _, _, had = fact(entry)
  local after = struct.pack('>I8I8I8', ttl, unknown_ttl, bytes)
  if before ~= after then redis.call('HSET', facts, entry, after) end
  if bytes ~= (had or 0) then redis.call('HINCRBY', facts, 'bytes', decimal(bytes - (had or 0))) end
  redis.call('ZADD', ends, decimal(last), entry)
  if until_ then redis.call('ZADD', leases, decimal(until_), entry) end
  last_until(last)
end

local function clean()
  local over = redis.call('ZRANGEBYSCORE', ends, '-inf', decimal(now), 'LIMIT', 0, MOST)
  for _, entry in ipairs(over) do forget(entry) end
  redis.call('ZREMRANGEBYSCORE', leases, '-inf', decimal(now))
end

local event, entry = ARGV[1], ARGV[2]

if event == 'reserve' then
  clean()
  -- Somebody else's, at this moment: the record will tell who of the two is granted.
  if redis.call('ZSCORE', leases, entry) then return { 'held' } end
  local function is_used_up(quota, used) return quota ~= '' and used >= tonumber(quota) end
  local packed, _, _, bytes = fact(entry)
  local known = packed and 1 or 0
  if is_used_up(ARGV[7], redis.call('ZCARD', leases)) then return { 'used_up', 0, known } end
  local records = redis.call('ZCOUNT', ends, '(' .. decimal(now), '+inf')
  if is_used_up(ARGV[8], records - known) then return { 'used_up', 1, known } end
  local sum = tonumber(redis.call('HGET', facts, 'bytes') or 0)
  if is_used_up(ARGV[9], sum - (bytes or 0)) then return { 'used_up', 2, known } end
  local until_ = now + ARGV[3]
  put(entry, until_, until_ + ARGV[5], ARGV[4], ARGV[5], tonumber(ARGV[6]))
  return { 'reserved' }
end

if event == 'hold' then
  local until_ = now + ARGV[3]
  put(entry, until_, until_ + ARGV[5], ARGV[4], ARGV[5], tonumber(ARGV[6]))
  return { 'noted' }
end

if event == 'extend' then
  local packed, ttl, unknown_ttl, bytes = fact(entry)
  local until_ = now + ARGV[3]
  if packed then put(entry, until_, until_ + unknown_ttl, ttl, unknown_ttl, bytes) end
  return { 'noted' }
end

if event == 'idle' then
  redis.call('ZREM', leases, entry)
  return { 'noted' }
end

if event == 'end' then
  redis.call('ZREM', leases, entry)
  local packed, ttl, unknown_ttl = fact(entry)
  if packed or ARGV[5] ~= '' then
    local last = tonumber(ARGV[5]) or now + (ARGV[3] == 'unknown' and unknown_ttl or ttl)
    put(entry, nil, last, ttl or 0, unknown_ttl or 0, tonumber(ARGV[4]))
  end
  return { 'noted' }
end

if event == 'forget' then
  forget(entry)
  return { 'noted' }
end

if event == 'note' then
  clean()
  local these = { 'noted' }
  for at = 2, #ARGV, 6 do
    local found, until_, last = ARGV[at], tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
    local ttl, unknown_ttl, bytes = ARGV[at + 3], ARGV[at + 4], tonumber(ARGV[at + 5])
    local packed = redis.call('HGET', facts, found)
    if until_ ~= 0 then
      -- Its own events may have told more by now.
      if not packed and until_ > now then
        put(found, until_, last, ttl, unknown_ttl, bytes)
        these[#these + 1] = found
      end
    elseif last > now then
      local same = packed == struct.pack('>I8I8I8', ttl, unknown_ttl, bytes)
        and redis.call('ZSCORE', ends, found)
      if not same or tonumber(same) ~= last then
        put(found, nil, last, ttl, unknown_ttl, bytes)
        these[#these + 1] = found
      end
    end
  end
  return these
end

if event == 'undo' then
  for at = 2, #ARGV, 6 do
    local found, last = ARGV[at], tonumber(ARGV[at + 2])
    local as_put = struct.pack('>I8I8I8', ARGV[at + 3], ARGV[at + 4], tonumber(ARGV[at + 5]))
    local same = redis.call('HGET', facts, found) == as_put and redis.call('ZSCORE', ends, found)
    if same and tonumber(same) == last then forget(found) end
  end
  return { 'noted' }
end

return redis.error_reply('IDEMEVENT there is no event ' .. event)
