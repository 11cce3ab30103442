WITH granted AS MATERIALIZED (
         SELECT * FROM idempotency_grant_within($1::bytea[], $2::bytea[], $3::bytea[],
             $4::bigint[], $5::bytea[], $6::bigint[], $7::bigint[], $8::bigint[],
             $9::bigint, $10::bigint, $11::bigint))
     SELECT i.n, granted.granted_fence, granted.used_up, idempotency_now(), f.floor, r.version, r.fence, r.state, r.owner, r.scheme, r.digest, r.attempt, r.ttl_ms, r.unknown_ttl_ms, r.created_at, r.changed_at, r.lease_until, r.status, r.body_bytes, r.outcome_digest, r.outcome_size, r.marks, r.outcome FROM unnest($1::bytea[]) WITH ORDINALITY AS i(id, n)
         CROSS JOIN idempotency_floor f
         LEFT JOIN granted ON granted.granted_id = i.id
         LEFT JOIN idempotency_records r ON r.id = i.id
