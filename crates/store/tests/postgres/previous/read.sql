SELECT i.n, idempotency_now(), f.floor, r.version, r.fence, r.state, r.owner, r.scheme, r.digest, r.attempt, r.ttl_ms, r.unknown_ttl_ms, r.created_at, r.changed_at, r.lease_until, r.status, r.body_bytes, r.outcome_digest, r.outcome_size, r.marks, CASE WHEN i.whole THEN r.outcome END FROM unnest($1::bytea[], $2::boolean[]) WITH ORDINALITY AS i(id, whole, n)
         CROSS JOIN idempotency_floor f
         LEFT JOIN idempotency_records r ON r.id = i.id
