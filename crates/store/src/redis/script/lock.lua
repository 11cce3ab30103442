-- One lock on one node of the guard, atomic and on the node's own clock.
--
-- KEYS[1]  the lock, a string: owner (16 bytes), 'h' held | 'r' released, fence (decimal, may be
--          empty). It ends by itself.
-- ARGV[1]  the event. The rest, by event (times are milliseconds):
--
--   take     owner, fence ('' to keep the one that is there), how long. Takes the lock, or holds it
--            for that long from now. Answers 1; the negative time that is left to another owner
--            who holds it; 0 if this owner has released it.
--   release  owner. A release that comes before its own take leaves a mark: a take that is still on
--            its way must not lock the key for a whole lease.
--   cancel   owner. The same, and always leaves a mark: the take may come a second time, since the
--            one who sent it had no answer.
--   settle   fence. Releases the lock of that execution.

local MARK_TTL = 60000
local event, key = ARGV[1], KEYS[1]
local found = redis.call('GET', key)
local owner, kind, fence
if found then
  owner, kind, fence = found:sub(1, 16), found:sub(17, 17), found:sub(18)
end

if event == 'take' then
  local mine = owner == ARGV[2]
  if kind == 'h' and not mine then return -math.max(redis.call('PTTL', key), 1) end
  if kind == 'r' and mine then return 0 end
  if ARGV[3] ~= '' or not mine then fence = ARGV[3] end
  redis.call('SET', key, ARGV[2] .. 'h' .. fence, 'PX', ARGV[4])
  return 1
end

if event == 'release' then
  if not found then
    redis.call('SET', key, ARGV[2] .. 'r', 'PX', MARK_TTL)
  elseif kind == 'h' and owner == ARGV[2] then
    redis.call('DEL', key)
  end
  return 1
end

if event == 'cancel' then
  if not found or owner == ARGV[2] then
    redis.call('SET', key, ARGV[2] .. 'r', 'PX', MARK_TTL)
  end
  return 1
end

if event == 'settle' then
  if kind == 'h' and fence == ARGV[2] then redis.call('DEL', key) end
  return 1
end

return redis.error_reply('IDEMEVENT there is no event ' .. event)
