-- The long way: what ends an execution, or keeps it.

if event == 'complete' then
  if mine then
    if r.state == COMPLETED then return completed_before(ARGV[6]) end
    if r.state ~= FAILED then return done(COMPLETED, 3) end
  end
  return { 'lost' }
end

if event == 'fail' then
  local owner = ARGV[2]
  if r.state == VACANT then return leave_mark(owner, 'marked') end
  if mine then
    if r.state == EXECUTING then return fail(ARGV[3], ARGV[4]) end
    if r.state == FAILED then return { 'failed' } end
    if r.state == UNKNOWN and h.doubt then return { 'abandoned' } end
  end
  if r.state == EXECUTING or r.state == FAILED then return leave_mark(owner, 'lost') end
  return leave_mark(owner, 'refused')
end

if event == 'abandon' then
  local owner = ARGV[2]
  if r.state == VACANT then return leave_mark(owner, 'marked') end
  if mine then
    if r.state == EXECUTING then return lapse({ 'abandoned' }) end
    if r.state == UNKNOWN then return { 'abandoned' } end
  end
  if r.state == EXECUTING or r.state == UNKNOWN then return leave_mark(owner, 'lost') end
  return leave_mark(owner, 'refused')
end

if event == 'extend' then
  local held = r.state == EXECUTING or r.state == SETTLED
  if held and mine then
    r.until_ = now + tonumber(ARGV[3])
    put()
    return { 'extended' }
  end
  if r.state == VACANT or held then return { 'lost' } end
  return { 'refused' }
end

if event == 'settle' then
  if r.state == VACANT or decimal(r.fence) ~= ARGV[2] then return { 'lost' } end
  if ARGV[3] == '1' then
    -- A gateway still waits for its bytes: it is told so when it completes.
    if running then return done(SETTLED, 4) end
    if lapsed or r.state == UNKNOWN then return done(COMPLETED, 4) end
    if r.state == FAILED then return { 'refused' } end
    return completed_before(ARGV[7])
  end
  if r.state == UNKNOWN and h.doubt then return { 'abandoned' } end
  if r.state == EXECUTING or r.state == UNKNOWN then return fail('0') end
  if r.state == FAILED then return { 'failed' } end
  return { 'refused' }
end

-- Once for each execution, while it runs. Kinds are bits, 8 is a relayed attempt's.
if event == 'redeem' then
  if not running or decimal(r.fence) ~= ARGV[2] or r.fingerprint ~= ARGV[3] then return { 'lost' } end
  if h.newest == RELAYED then return { 'spent' } end
  if h.newest ~= GATEWAY or now >= tonumber(ARGV[4]) then return { 'lost' } end
  h.newest, h.kinds = RELAYED, bit.bor(h.kinds, 8)
  put()
  return { 'redeemed', lease_left() }
end
