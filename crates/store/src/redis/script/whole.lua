-- A whole record, for tools that move or rewrite it. Nothing is decided here.
--
-- KEYS[1]  the record
-- ARGV[1]  'export', or 'replace' and:
--   the version that is replaced, 0 for none; '1' if there is to be a record; then its fields m, x, k and o
--   ('' for none), and its end in milliseconds

local key = KEYS[1]

if ARGV[1] == 'export' then
  return redis.call('HMGET', key, 'm', 'x', 'k', 'o')
end

local m = redis.call('HGET', key, 'm')
if m and #m ~= 170 then return { 'illegible' } end
-- Behind the format and the state.
local version = m and struct.unpack('>I8', m, 3) or 0
if string.format('%.0f', version) ~= ARGV[2] then return { 'changed' } end
if ARGV[3] == '1' then
  -- The first write tells whether there is memory, and is refused before anything has changed.
  redis.call('HSET', key, 'm', ARGV[4])
  for i, field in ipairs({ 'x', 'k', 'o' }) do
    local value = ARGV[4 + i]
    if value ~= '' then
      redis.call('HSET', key, field, value)
    else
      redis.call('HDEL', key, field)
    end
  end
  redis.call('PEXPIREAT', key, ARGV[8])
else
  redis.call('DEL', key)
end
redis.call('SPUBLISH', key, '')
return { 'replaced' }
