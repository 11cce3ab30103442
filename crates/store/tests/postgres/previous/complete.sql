WITH t AS MATERIALIZED (
         SELECT now, (extract(epoch FROM now) * 1000000)::bigint AS micros
         FROM idempotency_now() AS now),
     done AS (
         UPDATE idempotency_records r
         SET replaces = r.version, version = greatest(r.version + 1, t.micros),
             state = 'completed', changed_at = t.now, lease_until = NULL,
             due = t.now + r.ttl_ms * interval '1 ms', status = c.status,
             body_bytes = c.body_bytes, outcome_digest = c.digest, outcome_size = c.size,
             outcome = c.outcome
         FROM (SELECT * FROM unnest($1::bytea[], $2::bytea[], $3::integer[], $4::bigint[],
                     $5::bytea[], $6::bigint[], $7::bytea[])
                     AS c(id, owner, status, body_bytes, digest, size, outcome)
                 ORDER BY id) c
             CROSS JOIN t
         WHERE r.id = c.id AND r.owner = c.owner
             AND (r.state = 'executing' OR r.state = 'unknown' AND r.due > t.now)
         RETURNING r.id, r.due, r.waited_until > t.now AS waited)
     SELECT i.n, done.due,
         CASE WHEN done.waited THEN pg_notify('idempotency_changed', encode(done.id, 'hex')) END,
         idempotency_now(), f.floor, r.version, r.fence, r.state, r.owner, r.scheme, r.digest, r.attempt, r.ttl_ms, r.unknown_ttl_ms, r.created_at, r.changed_at, r.lease_until, r.status, r.body_bytes, r.outcome_digest, r.outcome_size, r.marks, NULL::bytea FROM unnest($1::bytea[]) WITH ORDINALITY AS i(id, n)
         CROSS JOIN idempotency_floor f
         LEFT JOIN done ON done.id = i.id
         LEFT JOIN idempotency_records r ON r.id = i.id
