WITH t AS MATERIALIZED (
         SELECT now, (extract(epoch FROM now) * 1000000)::bigint AS micros
         FROM idempotency_now() AS now),
     granted AS (
         INSERT INTO idempotency_records (id, long_key, replaces, version, fence, state, owner,
             scheme, digest, attempt, ttl_ms, unknown_ttl_ms, created_at, changed_at,
             lease_until, marks, due)
         SELECT g.id, g.long_key, 0, greatest(f.floor + 1, t.micros),
             greatest(f.floor + 1, t.micros), 'executing', g.owner, g.scheme, g.digest, 1,
             g.ttl_ms, g.unknown_ttl_ms, t.now, t.now, t.now + g.lease_ms * interval '1 ms', '',
             t.now + g.lease_ms * interval '1 ms'
         FROM unnest($1::bytea[], $2::bytea[], $3::bytea[], $4::bigint[], $5::bytea[],
                 $6::bigint[], $7::bigint[], $8::bigint[])
                 AS g(id, long_key, owner, scheme, digest, lease_ms, ttl_ms, unknown_ttl_ms)
             CROSS JOIN t CROSS JOIN idempotency_floor f
         ORDER BY g.id
         ON CONFLICT (id) DO NOTHING
         RETURNING id, fence)
     SELECT i.n, granted.fence, idempotency_now(), f.floor, r.version, r.fence, r.state, r.owner, r.scheme, r.digest, r.attempt, r.ttl_ms, r.unknown_ttl_ms, r.created_at, r.changed_at, r.lease_until, r.status, r.body_bytes, r.outcome_digest, r.outcome_size, r.marks, r.outcome FROM unnest($1::bytea[]) WITH ORDINALITY AS i(id, n)
         CROSS JOIN idempotency_floor f
         LEFT JOIN granted ON granted.id = i.id
         LEFT JOIN idempotency_records r ON r.id = i.id
