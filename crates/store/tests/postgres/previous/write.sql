WITH written AS (
        INSERT INTO idempotency_records AS r (id, long_key, replaces, version, fence, state,
            owner, scheme, digest, attempt, ttl_ms, unknown_ttl_ms, created_at, changed_at,
            lease_until, status, body_bytes, outcome_digest, outcome_size, outcome, marks,
            marks_until, due)
        SELECT * FROM unnest($1::bytea[], $2::bytea[], $3::bigint[], $4::bigint[], $5::bigint[],
            $6::text[], $7::bytea[], $8::bigint[], $9::bytea[], $10::bigint[], $11::bigint[],
            $12::bigint[], $13::timestamptz[], $14::timestamptz[], $15::timestamptz[],
            $16::integer[], $17::bigint[], $18::bytea[], $19::bigint[], $20::bytea[],
            $21::bytea[], $22::timestamptz[], $23::timestamptz[]) AS c(id)
        ORDER BY c.id
        ON CONFLICT (id) DO UPDATE SET
            replaces = excluded.replaces, version = excluded.version, fence = excluded.fence,
            state = excluded.state, owner = excluded.owner, scheme = excluded.scheme,
            digest = excluded.digest, attempt = excluded.attempt, ttl_ms = excluded.ttl_ms,
            unknown_ttl_ms = excluded.unknown_ttl_ms, created_at = excluded.created_at,
            changed_at = excluded.changed_at, lease_until = excluded.lease_until,
            status = excluded.status, body_bytes = excluded.body_bytes,
            outcome_digest = excluded.outcome_digest, outcome_size = excluded.outcome_size,
            outcome = excluded.outcome,
            marks = excluded.marks, marks_until = excluded.marks_until, due = excluded.due
        WHERE r.version = excluded.replaces
        RETURNING r.id, r.waited_until > idempotency_now() AS waited)
    SELECT id, CASE WHEN waited THEN pg_notify('idempotency_changed', encode(id, 'hex')) END
    FROM written
