-- Records of the idempotency gateway: one row per key.

-- The clock of the store. Every instance that works on this database lives by it.
CREATE FUNCTION idempotency_now() RETURNS timestamptz
    LANGUAGE sql VOLATILE
    AS 'SELECT clock_timestamp()';

CREATE TABLE idempotency_records (
    -- The lookup key as bytes (tenant, namespace, origin, key), in an order that keeps a tenant
    -- together. A key of more than 1024 bytes is cut there, its SHA-256 follows, and the whole of
    -- it is in long_key: an index has no room for more.
    id             bytea       PRIMARY KEY,
    long_key       bytea,

    -- Changes with every change of the record, and grows. Writers compare and set it.
    version        bigint      NOT NULL,
    -- The version that this one replaced; 0 for a new row.
    replaces       bigint      NOT NULL,
    -- Number of the newest execution.
    fence          bigint      NOT NULL,

    -- 'vacant': no execution, only owners that must not be granted any more.
    state          text        NOT NULL,
    owner          bytea,
    scheme         bigint,
    digest         bytea,
    attempt        bigint,
    ttl_ms         bigint,
    unknown_ttl_ms bigint,
    created_at     timestamptz,
    changed_at     timestamptz,
    lease_until    timestamptz,

    -- What is replayed: the status, headers and body as the wire protocol encodes them.
    status         integer,
    body_bytes     bigint,
    outcome_digest bytea,
    outcome_size   bigint,
    outcome        bytea,

    -- Owners that must not be granted: 16 bytes of owner, 1 of kind, 8 of end, each.
    marks          bytea       NOT NULL,
    marks_until    timestamptz,

    -- When a sweep should look at the row.
    due            timestamptz NOT NULL,
    -- Until when somebody may be waiting for this execution and wants to be notified.
    waited_until   timestamptz,

    CONSTRAINT idempotency_state CHECK (CASE state
        WHEN 'vacant' THEN digest IS NULL AND outcome IS NULL AND lease_until IS NULL
        WHEN 'executing' THEN owner IS NOT NULL AND digest IS NOT NULL AND outcome IS NULL
            AND lease_until IS NOT NULL
        WHEN 'completed' THEN digest IS NOT NULL AND outcome IS NOT NULL AND status IS NOT NULL
            AND outcome_digest IS NOT NULL AND lease_until IS NULL
        WHEN 'failed' THEN digest IS NOT NULL AND outcome IS NULL AND lease_until IS NULL
        WHEN 'unknown' THEN digest IS NOT NULL AND outcome IS NULL AND lease_until IS NULL
        ELSE false END),
    CONSTRAINT idempotency_versions CHECK (version > replaces AND replaces >= 0 AND fence >= 0)
) WITH (
    -- Room for the second version of a row on the page of the first.
    fillfactor = 80,
    -- Rows live for their TTL and no longer: the dead ones must be reused soon.
    autovacuum_vacuum_scale_factor = 0.05,
    autovacuum_vacuum_cost_delay = 0
);

-- What a sweep looks for.
CREATE INDEX idempotency_records_due ON idempotency_records (due);

-- The highest version that was ever forgotten. Fences grow from here, even if the server's clock
-- is set back, or a standby takes over whose clock is behind.
CREATE TABLE idempotency_floor (
    floor bigint  NOT NULL,
    one   boolean PRIMARY KEY DEFAULT true CHECK (one)
);
INSERT INTO idempotency_floor (floor) VALUES (0);
