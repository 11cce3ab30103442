-- The long way: acquire.

local function grant()
  if ARGV[8] == '1' then return { 'capacity' } end
  if ARGV[8] == '2' and r.state == VACANT then return { 'new' } end
  local kinds, kind = ARGV[10]:byte(3, 4)
  if r.state ~= VACANT then
    if r.owned == 1 then mark(r.owner, SPENT) end
    r.attempt = r.attempt + 1
    local failed = r.state == FAILED
    -- A lease that ran out unnoticed is noticed now.
    local ended = r.state == EXECUTING and now or r.changed
    h.past = (h.past .. struct.pack('>BBI8I8', h.newest, failed and 0 or 1, h.started, ended))
      :sub(-MAX_PAST * PAST_SIZE)
    -- A transaction without a recorded end was rolled back with it, or will be: no doubt is left.
    if not failed and h.newest ~= TRANSACTION then h.doubt = true end
    h.kinds = bit.bor(h.kinds, kinds)
    h.texts = h.texts:sub(1, 2 + struct.unpack('>I2', h.texts)) .. ARGV[11]:sub(5)
  else
    r.attempt, r.created = 1, now
    h = { doubt = false, effects = false, kinds = kinds, past = '', redirects = {},
      texts = ARGV[11]:sub(3) }
  end
  h.newest, h.started = kind, now
  r.state, r.changed = EXECUTING, now
  r.fence = math.max(r.fence + 1, now)
  r.owned, r.owner, r.fingerprint = 1, ARGV[2], ARGV[3]
  r.ttl, r.unknown_ttl = tonumber(ARGV[5]), tonumber(ARGV[6])
  r.until_ = now + tonumber(ARGV[4])
  r.status, r.has_body, r.body_bytes, r.digest, r.size = 0, 0, 0, NO_DIGEST, 0
  put()
  return { 'granted', r.fence, r.attempt, -1 }
end

local function barred(kind) return { kind == CANCELLED and 'cancelled' or 'spent' } end

if event == 'acquire' then
  local fingerprint = ARGV[3]
  local barred_by = mark_of(ARGV[2])
  if r.state == VACANT then
    if barred_by then return barred(barred_by) end
    return grant()
  end
  -- The fingerprint before the state, its scheme (the first 8 bytes) before its digest.
  if r.fingerprint:sub(1, 8) ~= fingerprint:sub(1, 8) then return { 'not_comparable' } end
  -- A redirect that this request got is its answer, whatever became of the key since.
  for _, each in ipairs(h.redirects) do
    if each.fingerprint == fingerprint then
      local last = r.state == EXECUTING and now + r.ttl or expires_at()
      return { 'redirected', each.fence, each.attempt, ms(math.max(now - each.answered, 0)),
        ms(last), each.outcome }
    end
  end
  if r.fingerprint ~= fingerprint then
    -- What was not done may be corrected; what may be half done must be repeated as it was.
    if r.state ~= FAILED or h.effects or h.doubt then return { 'mismatch' } end
    if barred_by then return barred(barred_by) end
    if mine then return barred(SPENT) end
    return grant()
  end
  if r.state == COMPLETED then return replay(tonumber(ARGV[9])) end
  -- What is left of the lease is told: it has been running since the first acquire.
  if running and mine then return { 'granted', r.fence, r.attempt, lease_left() } end
  if barred_by then return barred(barred_by) end
  if (r.state == FAILED or r.state == SETTLED) and mine then return barred(SPENT) end
  if running or r.state == SETTLED then return { 'in_flight', r.fence, lease_left() } end
  if r.state == FAILED then return grant() end
  -- Unknown, noticed or not. Kinds are bits, 4 is a transaction's.
  local retry = ARGV[7] == '1' or ARGV[7] == '2' and (h.kinds == 4 or h.kinds == 0)
  if retry and not mine then return grant() end
  if lapsed then return lapse(retry and { 'spent' } or nil) end
  if retry then return barred(SPENT) end
  return { 'unknown_outcome', ms(expires_at()) }
end
