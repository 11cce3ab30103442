WITH t AS MATERIALIZED (
        SELECT now, (extract(epoch FROM now) * 1000000)::bigint AS micros
        FROM idempotency_now() AS now),
    d AS MATERIALIZED (
        SELECT r.id, r.state, coalesce(r.marks_until > (SELECT now FROM t), false) AS marked
        FROM idempotency_records r
        WHERE r.due <= (SELECT now FROM t)
        ORDER BY r.due LIMIT $1
        FOR UPDATE SKIP LOCKED),
    lapsed AS (
        UPDATE idempotency_records r
        SET state = 'unknown', lease_until = NULL, changed_at = t.now, replaces = r.version,
            version = greatest(r.version + 1, t.micros),
            due = t.now + r.unknown_ttl_ms * interval '1 ms'
        FROM d CROSS JOIN t
        WHERE r.id = d.id AND d.state = 'executing'
        RETURNING r.id, r.waited_until > t.now AS waited),
    vacated AS (
        UPDATE idempotency_records r
        SET state = 'vacant', owner = NULL, scheme = NULL, digest = NULL, attempt = NULL,
            ttl_ms = NULL, unknown_ttl_ms = NULL, created_at = NULL, changed_at = NULL,
            lease_until = NULL, status = NULL, body_bytes = NULL, outcome_digest = NULL,
            outcome_size = NULL, outcome = NULL, due = r.marks_until
        FROM d
        WHERE r.id = d.id AND d.state IN ('completed', 'failed', 'unknown') AND d.marked
        RETURNING 1),
    removed AS (
        DELETE FROM idempotency_records r USING d
        WHERE r.id = d.id AND d.state <> 'executing' AND NOT d.marked
        RETURNING r.version, r.state),
    floored AS (
        UPDATE idempotency_floor f SET floor = m.version
        FROM (SELECT max(version) AS version FROM removed) m
        WHERE m.version > f.floor
        RETURNING 1)
    SELECT (SELECT count(*) FROM d),
        (SELECT count(*) FROM lapsed),
        (SELECT count(*) FROM vacated) + (SELECT count(*) FROM removed WHERE state <> 'vacant'),
        (SELECT count(*) FROM floored),
        (SELECT count(CASE WHEN waited THEN
            pg_notify('idempotency_changed', encode(id, 'hex'))::text END) FROM lapsed)
