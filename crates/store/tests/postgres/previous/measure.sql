SELECT pg_is_in_recovery() OR current_setting('transaction_read_only')::boolean,
        (SELECT max(version) FROM idempotency_schema),
        (SELECT reltuples::bigint FROM pg_class WHERE oid = 'idempotency_records'::regclass),
        pg_total_relation_size('idempotency_records')
