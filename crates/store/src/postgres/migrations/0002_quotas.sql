-- What each tenant has: for quotas. Nobody counts until idempotency_count_tenants(true) is called,
-- and until then nothing of this costs anything.

CREATE TABLE idempotency_tenants (
    -- How the ids of the tenant's records begin.
    tenant     bytea  PRIMARY KEY,
    executions bigint NOT NULL,
    records    bigint NOT NULL,
    bytes      bigint NOT NULL
) WITH (
    -- Every change of a record changes a row here, which must find room on its page.
    fillfactor = 25,
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_cost_delay = 0
);

-- A tenant, as a key begins: two bytes of length, and its name.
CREATE FUNCTION idempotency_tenant_of(key bytea) RETURNS bytea
    LANGUAGE sql IMMUTABLE
    AS 'SELECT substring(key FROM 1 FOR 2 + 256 * get_byte(key, 0) + get_byte(key, 1))';

-- What a row costs its tenant, `factor` times.
CREATE FUNCTION idempotency_charge(id bytea, long_key bytea, state text, outcome_size bigint,
        factor bigint)
    RETURNS TABLE (tenant bytea, executions bigint, records bigint, bytes bigint)
    LANGUAGE sql IMMUTABLE
    AS $$
        SELECT idempotency_tenant_of(coalesce(long_key, id)),
            CASE WHEN state = 'executing' THEN factor ELSE 0 END,
            CASE WHEN state = 'vacant' THEN 0 ELSE factor END,
            CASE WHEN state = 'vacant' THEN 0
                ELSE factor * (length(coalesce(long_key, id)) + coalesce(outcome_size, 0)) END
    $$;

-- Carries every change of records over, in the same transaction. Records first, then tenants, each
-- in their order: so nobody waits for another in a circle.
CREATE FUNCTION idempotency_count() RETURNS trigger
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
        DELETE FROM idempotency_tenants;
    END IF;
    RETURN NULL;
END
$$;

-- Begins to count, with what is there, or ends it. The owner of the tables may call it.
CREATE FUNCTION idempotency_count_tenants(wanted boolean) RETURNS void
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

-- Which quota leaves a tenant no room for a new record: 0 executions, 1 records, 2 bytes. A quota
-- that is NULL is none.
CREATE FUNCTION idempotency_used_up(executions bigint, records bigint, bytes bigint,
        most_executions bigint, most_records bigint, most_bytes bigint) RETURNS integer
    LANGUAGE sql IMMUTABLE
    AS $$
        SELECT CASE WHEN executions >= most_executions THEN 0
            WHEN records >= most_records THEN 1
            WHEN bytes >= most_bytes THEN 2 END
    $$;

-- Grants keys that have no row, as far as their tenants have room. The rows are inserted first, in
-- the order of their ids; that counts and locks their tenants; and what is then beyond a quota is
-- taken out again, before anybody else can see it. A tenant that has no room to begin with costs one
-- look. `used_up` is -1 where there is a row, which the statement around this may not see yet.
CREATE FUNCTION idempotency_grant_within(ids bytea[], long_keys bytea[], owners bytea[],
        schemes bigint[], digests bytea[], leases_ms bigint[], ttls_ms bigint[],
        unknown_ttls_ms bigint[], most_executions bigint, most_records bigint, most_bytes bigint)
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
    FROM idempotency_tenants u
    WHERE u.tenant IN (SELECT DISTINCT idempotency_tenant_of(coalesce(g.long_key, g.id))
            FROM unnest(ids, long_keys) AS g(id, long_key))
        AND idempotency_used_up(u.executions, u.records, u.bytes,
            most_executions, most_records, most_bytes) IS NOT NULL;

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
        FROM unnest(ids, long_keys, owners, schemes, digests, leases_ms, ttls_ms, unknown_ttls_ms)
                AS g(id, long_key, owner, scheme, digest, lease_ms, ttl_ms, unknown_ttl_ms)
            CROSS JOIN t CROSS JOIN idempotency_floor f
        WHERE full_ones IS NULL
            OR idempotency_tenant_of(coalesce(g.long_key, g.id)) <> ALL (full_ones)
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
        JOIN idempotency_tenants u ON u.tenant = n.tenant
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
        JOIN idempotency_tenants u ON u.tenant = idempotency_tenant_of(coalesce(g.long_key, g.id))
    WHERE (u.tenant = ANY (full_ones) OR g.id = ANY (excess))
        AND NOT EXISTS (SELECT FROM idempotency_records r WHERE r.id = g.id);
END
$$;
