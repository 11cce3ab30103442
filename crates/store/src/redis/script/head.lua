-- What each event does to a record: the table of docs/semantics.md, inside the server, so that one
-- call is one atomic step on the server's clock. The Rust form of the same table, which this one
-- is compared with by the tests, is crates/store/src/machine/. The script is put together from the
-- files of this folder (mod.rs): one text for one record, and one for many.
--
-- KEYS[1]  the record, a hash. Everything about one key is under this one name, so it lives in one
--          Cluster slot. Its fields:
--   m        what is known of it: LAYOUT below
--   k        the owners that must not be granted (25 bytes each: owner, kind, until)
--   o        the stored outcome
--   x        what is remembered of its attempts: the time at which the record was created, the
--            version of the record when x was written, and a history (crates/store/src/history.rs).
--            The previous release knows nothing of it; read.lua says what follows from that.
--
-- ARGV[1]  the event. The rest, by event (times are microseconds, numbers are decimal):
--
--   acquire   owner, fingerprint, lease, ttl, unknown ttl, what to do about unknown ('0' refuse,
--             '1' retry, '2' retry transactions), '1' to refuse grants or '2' to make no new
--             record, longest outcome to send along, HISTORY
--   complete  owner, OUTCOME
--   fail      owner, '0' | '1' nothing was done | '2' and the redirect is to be remembered, the
--             encoded redirect
--   abandon   owner
--   extend    owner, lease
--   redeem    fence, fingerprint, end of the proof
--   settle    fence, '1' done | '0' not done, OUTCOME if done
--   resolve   version, '1' to force, 'completed' | 'failed' | 'deleted', OUTCOME if completed
--   wait      fingerprint, fence, longest outcome to send along
--   outcome   digest
--   inspect   –
--   sweep     –
--
--   OUTCOME   status, '1' if there is a body, its size, digest, size of the encoded outcome, and
--             the encoded outcome itself
--   HISTORY   of a first attempt, in two arguments: what stands before the time of its grant (4
--             bytes), and what stands behind it
--
-- The answer is an array: a word, then what belongs to it. Numbers are below 2^53, which a double
-- holds exactly; they become RESP integers. `illegible` is answered to every event about a record
-- that a later release wrote, or that is damaged: nothing of it is changed.
--
-- A function or a table costs its making in every call. So what nearly all calls come to is done
-- first, on the packed bytes (short.lua). Whatever else there is goes the long way.

local VACANT, EXECUTING, COMPLETED, FAILED, UNKNOWN, SETTLED = 0, 1, 2, 3, 4, 5
local CANCELLED, SPENT = 0, 1
-- format, state, version, fence, attempt, owned, owner, fingerprint, created, changed, ttl,
-- unknown ttl, lease until, status, has body, body bytes, digest, size. Format 2 is a record that is
-- settled, which the previous release does not know, and refuses; all others are format 1.
local LAYOUT = '>BBI8I8I4Bc16c40I8I8I8I8I8I2BI8c32I8'
local SIZE = 170
-- Format of a history.
local HISTORY = 1
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
