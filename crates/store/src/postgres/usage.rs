//! Whether the server can do its work now, and how large the records are.

use super::error::PostgresFailure;
use super::migrate;
use super::row::unsigned;
use super::PostgresShared;
use crate::store::Usage;
use std::sync::atomic::Ordering;

/// The number of records is the estimate of the last vacuum or analyze; counting reads them all.
const MEASURE: &str = "
    SELECT pg_is_in_recovery() OR current_setting('transaction_read_only')::boolean,
        (SELECT max(version) FROM idempotency_schema),
        (SELECT reltuples::bigint FROM pg_class WHERE oid = 'idempotency_records'::regclass),
        pg_total_relation_size('idempotency_records')";

impl PostgresShared {
    /// Asks the server, and notes whether the high-water mark is passed.
    pub(super) async fn measure(&self) -> Result<Usage, PostgresFailure> {
        let connection = self.pool.get().await?;
        let rows = connection.query(MEASURE, &[]).await?;
        let row = rows
            .first()
            .ok_or_else(|| PostgresFailure::transient("no answer"))?;
        if row.get::<_, bool>(0) {
            return Err(PostgresFailure::transient(
                "PostgreSQL: the server is read-only (a standby, or set so)",
            ));
        }
        if row.get::<_, Option<i32>>(1) != Some(migrate::VERSION) {
            return Err(PostgresFailure::permanent("the schema has another version"));
        }
        let bytes = unsigned(row.get(3));
        let above_high_water = self.max_bytes.is_some_and(|most| bytes > most);
        self.above_high_water
            .store(above_high_water, Ordering::Relaxed);
        Ok(Usage {
            // Negative: never counted.
            records: u64::try_from(row.get::<_, i64>(2)).ok(),
            bytes: Some(bytes),
            above_high_water,
        })
    }
}
