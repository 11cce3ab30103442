-- The short way: an acquire that finds nothing, an acquire that finds a stored outcome, and a
-- complete that finds its own execution. Its locals are `key`, the record's name, and `at`, the
-- argument before the event: this text is also the body of a function that takes both.

local event = ARGV[at + 1]
local stored = redis.call('HMGET', key, 'm', 'k', 'x')
local m, x = stored[1], stored[3]

if not m then
  if event == 'acquire' and not stored[2] and ARGV[at + 8] == '2' then return { 'new' } end
  if event == 'acquire' and not stored[2] and ARGV[at + 8] == '0' then
    local unknown_ttl, until_ = tonumber(ARGV[at + 6]), now + ARGV[at + 4]
    redis.call('HSET', key, 'm', struct.pack('>BBI8I8I4Bc16c40I8I8I8I8I8', 1, EXECUTING, now, now,
      1, 1, ARGV[at + 2], ARGV[at + 3], now, now, ARGV[at + 5], unknown_ttl, until_) .. NO_OUTCOME,
      'x', struct.pack('>I8I8c4I8c0', now, now, ARGV[at + 10], now, ARGV[at + 11]))
    expire_after(key, until_ + unknown_ttl + GRACE)
    return { 'granted', now, 1, -1 }
  end
elseif #m == SIZE and (not x or x:byte(17) == HISTORY) then
  if event == 'complete' then
    -- Format 1, executing, owned by this owner; and no marks. What is remembered of the attempts
    -- says nothing more about a completed record than before, so `x` stays as it is.
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
    -- Format 1, completed, with this fingerprint, by an owner. (What an operator has completed may
    -- have a redirect for the same fingerprint, which comes first.)
    if m:sub(1, 2) == '\1\2' and m:byte(23) == 1 and m:sub(40, 79) == ARGV[at + 3] then
      local changed, ttl = struct.unpack('>I8I8', m, 88)
      local last, age = changed + ttl, now - changed
      if last > now then
        local fence, attempt = struct.unpack('>I8I4', m, 11)
        local outcome = struct.unpack('>I8', m, 163) <= tonumber(ARGV[at + 9])
          and redis.call('HGET', key, 'o')
        return { 'stored', fence, attempt, (age - age % 1000) / 1000, (last - last % 1000) / 1000,
          m:sub(120, 162), outcome }
      end
    end
  end
end
