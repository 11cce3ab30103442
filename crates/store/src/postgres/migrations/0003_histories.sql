-- What a record remembers of its attempts, the state 'settled', and what transactions of applications
-- need. Services of the release before go on working with these tables: their statements name the
-- columns that they know, and what they cannot know of a record is told from its version. No row is
-- rewritten, and no table is read.

ALTER TABLE idempotency_records
    -- Who does not know a row's format leaves the row alone, and grants nothing.
    ADD COLUMN format smallint NOT NULL DEFAULT 1,

    -- What is remembered of the attempts (crates/store/src/history.rs), without the description. NULL: the
    -- record was made by a service that knows no histories.
    ADD COLUMN history bytea,
    -- The version, the fence and the time of creation that the record had when its history was up to date.
    -- A service of the release before changes the record, but not these.
    ADD COLUMN history_version bigint,
    ADD COLUMN history_fence bigint,
    ADD COLUMN history_since timestamptz,

    -- What people search by: method, path, rule, gateway, request_id, trace_id, client. It describes the
    -- attempt whose fence is history_fence.
    ADD COLUMN about jsonb,

    DROP CONSTRAINT idempotency_state,
    -- Rows that were here before meet it, since they met the one before: so nobody has to look.
    ADD CONSTRAINT idempotency_state CHECK (CASE state
        WHEN 'vacant' THEN digest IS NULL AND outcome IS NULL AND lease_until IS NULL
        WHEN 'executing' THEN owner IS NOT NULL AND digest IS NOT NULL AND outcome IS NULL
            AND lease_until IS NOT NULL
        -- Done, as the upstream told itself; the lease is that of the gateway, which still holds the key.
        WHEN 'settled' THEN digest IS NOT NULL AND outcome IS NOT NULL AND status IS NOT NULL
            AND outcome_digest IS NOT NULL AND lease_until IS NOT NULL
        WHEN 'completed' THEN digest IS NOT NULL AND outcome IS NOT NULL AND status IS NOT NULL
            AND outcome_digest IS NOT NULL AND lease_until IS NULL
        WHEN 'failed' THEN digest IS NOT NULL AND outcome IS NULL AND lease_until IS NULL
        WHEN 'unknown' THEN digest IS NOT NULL AND outcome IS NULL AND lease_until IS NULL
        ELSE false END) NOT VALID;

-- The newest script that was applied. It may be above the version, which services of that version demand
-- to be theirs: then they go on with what this script changed.
ALTER TABLE idempotency_schema ADD COLUMN script integer;

-- What changes a tenant's counters in the transaction of an application. To change the tenant's row there
-- would keep it locked until that transaction ends, and stop all grants of the tenant. A sweep carries
-- these rows over to idempotency_tenants.
CREATE TABLE idempotency_tenant_changes (
    tenant     bytea  NOT NULL,
    executions bigint NOT NULL,
    records    bigint NOT NULL,
    bytes      bigint NOT NULL
) WITH (
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_cost_delay = 0
);
CREATE INDEX idempotency_tenant_changes_tenant ON idempotency_tenant_changes (tenant);

-- Who may count tenants may do so here, too.
DO $$
DECLARE
    role text;
BEGIN
    FOR role IN
        SELECT DISTINCT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END
        FROM pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) a
        WHERE c.oid = 'idempotency_tenants'::regclass AND a.privilege_type = 'INSERT'
            AND a.grantee <> c.relowner
    LOOP
        EXECUTE 'GRANT SELECT, INSERT, UPDATE, DELETE ON idempotency_tenant_changes TO ' || role;
    END LOOP;
END
$$;

-- What a tenant has.
CREATE FUNCTION idempotency_tenant_use(of_tenant bytea)
    RETURNS TABLE (tenant bytea, executions bigint, records bigint, bytes bigint)
    LANGUAGE sql STABLE
    AS $$
        SELECT of_tenant, coalesce(sum(u.executions), 0)::bigint, coalesce(sum(u.records), 0)::bigint,
            coalesce(sum(u.bytes), 0)::bigint
        FROM (SELECT t.executions, t.records, t.bytes FROM idempotency_tenants t
                WHERE t.tenant = of_tenant
            UNION ALL SELECT c.executions, c.records, c.bytes FROM idempotency_tenant_changes c
                WHERE c.tenant = of_tenant) u
    $$;

-- Carries changes over, at most so many. Who does so at the same time takes others.
CREATE FUNCTION idempotency_carry_tenant_changes(most integer) RETURNS bigint
    LANGUAGE sql SET search_path FROM CURRENT
    AS $$
        WITH taken AS (
            DELETE FROM idempotency_tenant_changes WHERE ctid = ANY (ARRAY(
                SELECT ctid FROM idempotency_tenant_changes LIMIT most FOR UPDATE SKIP LOCKED))
            RETURNING tenant, executions, records, bytes),
        carried AS (
            INSERT INTO idempotency_tenants AS u (tenant, executions, records, bytes)
            SELECT tenant, sum(executions), sum(records), sum(bytes) FROM taken
            GROUP BY tenant ORDER BY tenant
            ON CONFLICT (tenant) DO UPDATE SET executions = u.executions + excluded.executions,
                records = u.records + excluded.records, bytes = u.bytes + excluded.bytes)
        SELECT count(*) FROM taken
    $$;

-- As before, but for changes in the transaction of an application.
CREATE OR REPLACE FUNCTION idempotency_count() RETURNS trigger
    LANGUAGE plpgsql SET search_path FROM CURRENT
    AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO idempotency_tenants AS u (tenant, executions, records, bytes)
        SELECT c.tenant, sum(c.executions), sum(c.records), sum(c.bytes)
        FROM after r
            CROSS JOIN LATERAL idempotency_charge(r.id, r.long_key, r.state, r.outcome_size, 1) c
        GROUP BY c.tenant HAVING sum(c.records) <> 0
        ORDER BY c.tenant
        ON CONFLICT (tenant) DO UPDATE SET executions = u.executions + excluded.executions,
            records = u.records + excluded.records, bytes = u.bytes + excluded.bytes;
    ELSIF TG_OP = 'UPDATE' AND current_setting('idempotency.in_transaction', true) = 'on' THEN
        INSERT INTO idempotency_tenant_changes (tenant, executions, records, bytes)
        SELECT c.tenant, sum(c.executions), sum(c.records), sum(c.bytes)
        FROM (SELECT a.*
                FROM after r CROSS JOIN LATERAL
                    idempotency_charge(r.id, r.long_key, r.state, r.outcome_size, 1) a
            UNION ALL SELECT b.*
                FROM before r CROSS JOIN LATERAL
                    idempotency_charge(r.id, r.long_key, r.state, r.outcome_size, -1) b) c
        GROUP BY c.tenant
        HAVING sum(c.executions) <> 0 OR sum(c.records) <> 0 OR sum(c.bytes) <> 0;
    ELSIF TG_OP = 'UPDATE' THEN
        INSERT INTO idempotency_tenants AS u (tenant, executions, records, bytes)
        SELECT c.tenant, sum(c.executions), sum(c.records), sum(c.bytes)
        FROM (SELECT a.*
                FROM after r CROSS JOIN LATERAL
                    idempotency_charge(r.id, r.long_key, r.state, r.outcome_size, 1) a
            UNION ALL SELECT b.*
                FROM before r CROSS JOIN LATERAL
                    idempotency_charge(r.id, r.long_key, r.state, r.outcome_size, -1) b) c
        GROUP BY c.tenant
        HAVING sum(c.executions) <> 0 OR sum(c.records) <> 0 OR sum(c.bytes) <> 0
        ORDER BY c.tenant
        ON CONFLICT (tenant) DO UPDATE SET executions = u.executions + excluded.executions,
            records = u.records + excluded.records, bytes = u.bytes + excluded.bytes;
    ELSIF TG_OP = 'DELETE' THEN
        INSERT INTO idempotency_tenants AS u (tenant, executions, records, bytes)
        SELECT c.tenant, sum(c.executions), sum(c.records), sum(c.bytes)
        FROM before r
            CROSS JOIN LATERAL idempotency_charge(r.id, r.long_key, r.state, r.outcome_size, -1) c
        GROUP BY c.tenant HAVING sum(c.records) <> 0
        ORDER BY c.tenant
        ON CONFLICT (tenant) DO UPDATE SET executions = u.executions + excluded.executions,
            records = u.records + excluded.records, bytes = u.bytes + excluded.bytes;
    ELSE
        DELETE FROM idempotency_tenant_changes;
        DELETE FROM idempotency_tenants;
    END IF;
    RETURN NULL;
END
$$;

-- As before; what was to be carried over is counted with the rest.
CREATE OR REPLACE FUNCTION idempotency_count_tenants(wanted boolean) RETURNS void
    LANGUAGE plpgsql SET search_path FROM CURRENT
    AS $$
BEGIN
    IF wanted = EXISTS (SELECT FROM pg_trigger
            WHERE tgrelid = 'idempotency_records'::regclass AND tgname = 'idempotency_counts_inserts') THEN
        RETURN;
    END IF;
    -- Readers go on; writers wait until all is counted.
    LOCK TABLE idempotency_records IN SHARE ROW EXCLUSIVE MODE;
    DROP TRIGGER IF EXISTS idempotency_counts_inserts ON idempotency_records;
    DROP TRIGGER IF EXISTS idempotency_counts_updates ON idempotency_records;
    DROP TRIGGER IF EXISTS idempotency_counts_deletes ON idempotency_records;
    DROP TRIGGER IF EXISTS idempotency_counts_truncates ON idempotency_records;
    DELETE FROM idempotency_tenant_changes;
    DELETE FROM idempotency_tenants;
    IF wanted THEN
        CREATE TRIGGER idempotency_counts_inserts AFTER INSERT ON idempotency_records
            REFERENCING NEW TABLE AS after
            FOR EACH STATEMENT EXECUTE FUNCTION idempotency_count();
        CREATE TRIGGER idempotency_counts_updates AFTER UPDATE ON idempotency_records
            REFERENCING OLD TABLE AS before NEW TABLE AS after
            FOR EACH STATEMENT EXECUTE FUNCTION idempotency_count();
        CREATE TRIGGER idempotency_counts_deletes AFTER DELETE ON idempotency_records
            REFERENCING OLD TABLE AS before
            FOR EACH STATEMENT EXECUTE FUNCTION idempotency_count();
        CREATE TRIGGER idempotency_counts_truncates AFTER TRUNCATE ON idempotency_records
            FOR EACH STATEMENT EXECUTE FUNCTION idempotency_count();
        INSERT INTO idempotency_tenants (tenant, executions, records, bytes)
        SELECT c.tenant, sum(c.executions), sum(c.records), sum(c.bytes)
        FROM idempotency_records r
            CROSS JOIN LATERAL idempotency_charge(r.id, r.long_key, r.state, r.outcome_size, 1) c
        GROUP BY c.tenant HAVING sum(c.records) <> 0;
    END IF;
END
$$;

-- As the function of the same name that services of the release before call, with histories and
-- descriptions. Keys that have a row are left out before the insert, which would wait for a transaction
-- that changes the row.
CREATE FUNCTION idempotency_grant_within(ids bytea[], long_keys bytea[], owners bytea[],
        schemes bigint[], digests bytea[], leases_ms bigint[], ttls_ms bigint[],
        unknown_ttls_ms bigint[], histories bytea[], abouts jsonb[],
        most_executions bigint, most_records bigint, most_bytes bigint)
    RETURNS TABLE (granted_id bytea, granted_fence bigint, used_up integer)
    LANGUAGE plpgsql SET search_path FROM CURRENT
    AS $$
DECLARE
    -- Tenants without room.
    full_ones bytea[];
    new_ids bytea[];
    new_fences bigint[];
    excess bytea[];
BEGIN
    SELECT array_agg(u.tenant) INTO full_ones
    FROM (SELECT DISTINCT idempotency_tenant_of(coalesce(g.long_key, g.id)) AS tenant
            FROM unnest(ids, long_keys) AS g(id, long_key)) w
        CROSS JOIN LATERAL idempotency_tenant_use(w.tenant) u
    WHERE idempotency_used_up(u.executions, u.records, u.bytes,
        most_executions, most_records, most_bytes) IS NOT NULL;

    WITH t AS MATERIALIZED (
        SELECT now, (extract(epoch FROM now) * 1000000)::bigint AS micros
        FROM idempotency_now() AS now),
    granted AS (
        INSERT INTO idempotency_records (id, long_key, replaces, version, fence, state, owner,
            scheme, digest, attempt, ttl_ms, unknown_ttl_ms, created_at, changed_at,
            lease_until, marks, due, history, history_version, history_fence, history_since, about)
        SELECT g.id, g.long_key, 0, greatest(f.floor + 1, t.micros),
            greatest(f.floor + 1, t.micros), 'executing', g.owner, g.scheme, g.digest, 1,
            g.ttl_ms, g.unknown_ttl_ms, t.now, t.now, t.now + g.lease_ms * interval '1 ms', '',
            t.now + g.lease_ms * interval '1 ms',
            overlay(g.history PLACING int8send(t.micros) FROM 5 FOR 8),
            greatest(f.floor + 1, t.micros), greatest(f.floor + 1, t.micros), t.now, g.about
        FROM unnest(ids, long_keys, owners, schemes, digests, leases_ms, ttls_ms, unknown_ttls_ms,
                    histories, abouts)
                AS g(id, long_key, owner, scheme, digest, lease_ms, ttl_ms, unknown_ttl_ms,
                    history, about)
            CROSS JOIN t CROSS JOIN idempotency_floor f
        WHERE (full_ones IS NULL
                OR idempotency_tenant_of(coalesce(g.long_key, g.id)) <> ALL (full_ones))
            AND NOT EXISTS (SELECT FROM idempotency_records r WHERE r.id = g.id)
        ORDER BY g.id
        ON CONFLICT (id) DO NOTHING
        RETURNING id, fence)
    SELECT array_agg(granted.id), array_agg(granted.fence) INTO new_ids, new_fences FROM granted;

    -- Each in its turn: what the tenant would have without it and those after it.
    SELECT array_agg(n.id) INTO excess
    FROM (SELECT r.id, c.tenant, c.bytes,
                row_number() OVER turn AS place, count(*) OVER (PARTITION BY c.tenant) AS many,
                sum(c.bytes) OVER turn AS bytes_so_far,
                sum(c.bytes) OVER (PARTITION BY c.tenant) AS all_bytes
            FROM idempotency_records r
                CROSS JOIN LATERAL
                    idempotency_charge(r.id, r.long_key, r.state, r.outcome_size, 1) c
            WHERE r.id = ANY (new_ids)
            WINDOW turn AS (PARTITION BY c.tenant ORDER BY r.id)) n
        CROSS JOIN LATERAL idempotency_tenant_use(n.tenant) u
    WHERE idempotency_used_up(u.executions - n.many + n.place - 1, u.records - n.many + n.place - 1,
        (u.bytes - n.all_bytes + n.bytes_so_far - n.bytes)::bigint,
        most_executions, most_records, most_bytes) IS NOT NULL;
    IF excess IS NOT NULL THEN
        DELETE FROM idempotency_records r WHERE r.id = ANY (excess);
    END IF;

    RETURN QUERY
    SELECT g.id, g.fence, NULL::integer FROM unnest(new_ids, new_fences) AS g(id, fence)
    WHERE excess IS NULL OR g.id <> ALL (excess)
    UNION ALL
    SELECT g.id, NULL::bigint, -1
    FROM unnest(ids) AS g(id) JOIN idempotency_records r ON r.id = g.id
    WHERE new_ids IS NULL OR g.id <> ALL (new_ids)
    UNION ALL
    SELECT g.id, NULL::bigint, idempotency_used_up(u.executions, u.records, u.bytes,
        most_executions, most_records, most_bytes)
    FROM unnest(ids, long_keys) AS g(id, long_key)
        CROSS JOIN LATERAL idempotency_tenant_use(
            idempotency_tenant_of(coalesce(g.long_key, g.id))) u
    WHERE (u.tenant = ANY (full_ones) OR g.id = ANY (excess))
        AND NOT EXISTS (SELECT FROM idempotency_records r WHERE r.id = g.id);
END
$$;
