-- What a transaction of an application runs to complete or to settle its record, as functions. A session keeps the plan of
-- what is in a function, and plans only the call each time, also where nothing can be prepared under a name (PgBouncer in
-- transaction mode). Programs of the release before do not call them, and go on.
--
-- Every name is qualified: they work under the search_path of whoever calls them, and need no setting of their own, which
-- would cost each call.
DO $do$
DECLARE
    place text;
BEGIN
    SELECT quote_ident(n.nspname) INTO STRICT place
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.oid = 'idempotency_records'::regclass;

    -- As the statements of crates/store/src/transaction/statement.rs. With `or_fail` it fails where it would return no
    -- row: then the COMMIT that came with it is a rollback.
    EXECUTE replace($create$
CREATE FUNCTION {}.idempotency_complete_in_tx(p_id bytea, p_number bigint, p_owner bytea, p_fence bigint,
        p_status bigint, p_body_bytes bigint, p_digest bytea, p_size bigint, p_outcome bytea, or_fail boolean)
    RETURNS TABLE (state text, expires_at_ms bigint)
    LANGUAGE plpgsql
    AS $body$
#variable_conflict use_column
DECLARE
    done text;
    moment timestamptz;
    micros bigint;
BEGIN
    done := pg_catalog.pg_advisory_xact_lock_shared(p_number)::text;
    done := pg_catalog.set_config('idempotency.in_transaction', 'on', true);
    moment := {}.idempotency_now();
    micros := (extract(epoch FROM moment) * 1000000)::bigint;
    UPDATE {}.idempotency_records r
    SET replaces = r.version, version = greatest(r.version + 1, micros),
        history_version = CASE WHEN r.history_version = r.version
            THEN greatest(r.version + 1, micros) ELSE r.history_version END,
        changed_at = moment, state = 'completed', lease_until = NULL,
        due = moment + r.ttl_ms * interval '1 ms', status = p_status::integer,
        body_bytes = CASE WHEN p_body_bytes >= 0 THEN p_body_bytes END, outcome_digest = p_digest,
        outcome_size = p_size, outcome = p_outcome
    WHERE r.id = p_id AND r.owner = p_owner AND r.fence = p_fence
        AND (r.state = 'executing' OR r.state = 'unknown' AND r.due > moment
            OR r.state = 'settled' AND r.lease_until > moment)
        AND r.format = 1 AND (r.history IS NULL OR substring(r.history FROM 1 FOR 1) = '\x01')
    RETURNING r.state, floor(extract(epoch FROM r.due) * 1000)::bigint INTO state, expires_at_ms;
    IF FOUND THEN
        RETURN NEXT;
    ELSIF or_fail THEN
        RAISE EXCEPTION 'this execution does not hold its key any more' USING ERRCODE = 'IG001';
    END IF;
END
$body$
    $create$, '{}', place);

    EXECUTE replace($create$
CREATE FUNCTION {}.idempotency_settle_in_tx(p_id bytea, p_number bigint, p_fence bigint,
        p_status bigint, p_body_bytes bigint, p_digest bytea, p_size bigint, p_outcome bytea)
    RETURNS TABLE (state text, expires_at_ms bigint)
    LANGUAGE plpgsql
    AS $body$
#variable_conflict use_column
DECLARE
    done text;
    moment timestamptz;
    micros bigint;
BEGIN
    done := pg_catalog.pg_advisory_xact_lock_shared(p_number)::text;
    done := pg_catalog.set_config('idempotency.in_transaction', 'on', true);
    moment := {}.idempotency_now();
    micros := (extract(epoch FROM moment) * 1000000)::bigint;
    -- While the gateway's lease lives, it still holds the key, and attaches the bytes that its client gets.
    UPDATE {}.idempotency_records r
    SET replaces = r.version, version = greatest(r.version + 1, micros),
        history_version = CASE WHEN r.history_version = r.version
            THEN greatest(r.version + 1, micros) ELSE r.history_version END,
        changed_at = moment,
        state = CASE WHEN r.lease_until > moment THEN 'settled' ELSE 'completed' END,
        lease_until = CASE WHEN r.lease_until > moment THEN r.lease_until END,
        due = greatest(moment + r.ttl_ms * interval '1 ms',
            CASE WHEN r.lease_until > moment THEN r.lease_until END),
        status = p_status::integer,
        body_bytes = CASE WHEN p_body_bytes >= 0 THEN p_body_bytes END, outcome_digest = p_digest,
        outcome_size = p_size, outcome = p_outcome
    WHERE r.id = p_id AND r.fence = p_fence
        AND (r.state = 'executing' OR r.state = 'unknown' AND r.due > moment)
        AND r.format = 1 AND (r.history IS NULL OR substring(r.history FROM 1 FOR 1) = '\x01')
    RETURNING r.state, floor(extract(epoch FROM r.due) * 1000)::bigint INTO state, expires_at_ms;
    IF FOUND THEN
        RETURN NEXT;
    END IF;
END
$body$
    $create$, '{}', place);
END
$do$;
