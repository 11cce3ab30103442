-- The long way: what operators, waiters and sweepers do. The last part of the script.

if event == 'resolve' then
  if r.state == VACANT then return { 'no_such_key' } end
  if decimal(r.version) ~= ARGV[2] then return { 'version_changed', now, m, x } end
  if running and ARGV[3] ~= '1' then return { 'executing', now, m, x } end
  -- Whoever held the key is from now on an owner that has settled.
  if r.owned == 1 then
    mark(r.owner, SPENT)
    r.owned, r.owner = 0, NO_OWNER
  end
  -- The operator has looked: nothing is in doubt. What a failed attempt left is not told.
  h.doubt, h.effects = false, true
  if ARGV[4] == 'completed' then
    done(COMPLETED, 5)
  else
    enter(ARGV[4] == 'failed' and FAILED or VACANT)
  end
  return { 'done', now, m, x }
end

if event == 'wait' then
  if r.state == VACANT or r.fingerprint ~= ARGV[2] or decimal(r.fence) ~= ARGV[3] then
    return { 'changed' }
  end
  if running or r.state == SETTLED then
    return { 'waiting', math.max(ms(r.until_ - now + 999), 1) }
  end
  if r.state == COMPLETED then return replay(tonumber(ARGV[4])) end
  return { 'changed' }
end

if event == 'outcome' then
  if r.state ~= COMPLETED or r.digest ~= ARGV[2] then return { 'changed' } end
  return { 'outcome', redis.call('HGET', key, 'o') }
end

if event == 'sweep' then
  if lapsed then return lapse({ 'lapsed' }) end
  -- Settled, and its lease is over: now also to the previous release, which cannot read it before.
  if r.state == COMPLETED and m:byte(1) == 2 then redis.call('HSET', key, 'm', packed()) end
  return { 'kept' }
end

return redis.error_reply('IDEMEVENT there is no event ' .. event)
