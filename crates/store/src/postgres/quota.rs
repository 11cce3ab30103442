//! Quotas: what each tenant has, counted by triggers in the transaction of every change.
//!
//! The triggers are there from the first time that a service with quotas starts. A grant of a key
//! that has no row counts and looks in one transaction, under its tenant's lock
//! (`idempotency_grant_within`). A new record in a row that is there (of marks, or of a record that
//! is over and not swept) is decided by the state machine, on a look before.

use super::error::PostgresFailure;
use super::migrate::{Tries, LOCK_TIMEOUT};
use super::pool::{Pool, PooledConnection};
use super::row::unsigned;
use super::step::SeenRow;
use super::PostgresShared;
use crate::quota::{Quota, Quotas, TenantUse};
use crate::store::StoreError;
use idempotency_protocol::LookupKey;
use std::collections::HashMap;
use std::sync::PoisonError;

const USED: &str = "
    SELECT u.tenant, u.executions, u.records, u.bytes
    FROM (SELECT DISTINCT unnest($1::bytea[]) AS tenant) w
        CROSS JOIN LATERAL idempotency_tenant_use(w.tenant) u";

/// What transactions of applications have changed, carried over to the counters; how much it was. A role that may not
/// do so has none to carry over, or its owner to do so: counting needs the same rights.
const CARRY: &str = "
    SELECT CASE WHEN has_table_privilege('idempotency_tenant_changes', 'DELETE')
            AND has_table_privilege('idempotency_tenants', 'INSERT')
        THEN idempotency_carry_tenant_changes($1::integer) ELSE 0 END";

/// Most changes that are carried over at a time.
const CARRIED: i32 = 1_000;

const FORGET: &str = "
    DELETE FROM idempotency_tenants WHERE tenant IN (
        SELECT tenant FROM idempotency_tenants WHERE records = 0
        LIMIT 1000 FOR UPDATE SKIP LOCKED)";

/// What `idempotency_grant_within` says of a key that has a row.
pub(super) const A_ROW: i32 = -1;

/// As `idempotency_used_up` says it.
pub(super) fn used_up(code: Option<i32>) -> Option<Quota> {
    match code? {
        0 => Some(Quota::Executions),
        1 => Some(Quota::Records),
        2 => Some(Quota::Bytes),
        _ => None,
    }
}

/// How the database names a tenant: as the bytes of its keys begin.
fn named(tenant: &str) -> Vec<u8> {
    let len = u16::try_from(tenant.len()).unwrap_or(u16::MAX);
    [&len.to_be_bytes(), tenant.as_bytes()].concat()
}

/// Says of each of these, which may become new records, whether its tenant has room; those before it
/// count as made.
pub(super) async fn look(
    connection: &PooledConnection,
    quotas: Quotas,
    new: Vec<(&LookupKey, &mut SeenRow)>,
) -> Result<(), PostgresFailure> {
    if new.is_empty() {
        return Ok(());
    }
    let tenants: Vec<Vec<u8>> = new.iter().map(|(key, _)| named(&key.tenant)).collect();
    let rows = connection.query(USED, &[&tenants]).await?;
    let mut used: HashMap<Vec<u8>, TenantUse> = rows
        .iter()
        .map(|row| {
            let used = TenantUse {
                executions: unsigned(row.get(1)),
                records: unsigned(row.get(2)),
                bytes: unsigned(row.get(3)),
            };
            (row.get(0), used)
        })
        .collect();
    for ((key, seen), tenant) in new.into_iter().zip(tenants) {
        let used = used.entry(tenant).or_default();
        seen.used_up = quotas.used_up(used);
        if seen.used_up.is_none() {
            used.executions += 1;
            used.records += 1;
            used.bytes += u64::try_from(key.to_bytes().len()).unwrap_or(u64::MAX);
        }
    }
    Ok(())
}

/// Brings the counters up to date, also where this service has no quotas: others may, or may have had.
pub(super) async fn carry(connection: &PooledConnection) -> Result<(), PostgresFailure> {
    loop {
        let rows = connection.query(CARRY, &[&CARRIED]).await?;
        let carried: i64 = rows.first().map_or(0, |row| row.get(0));
        if carried < i64::from(CARRIED) {
            return Ok(());
        }
    }
}

/// Forgets tenants that have nothing.
pub(super) async fn forget(connection: &PooledConnection) -> Result<(), PostgresFailure> {
    connection.query(FORGET, &[]).await.map(|_| ())
}

/// Begins to count, unless that has begun.
pub(super) async fn count(pool: &Pool) -> Result<(), PostgresFailure> {
    let mut tries = Tries::default();
    loop {
        match count_once(pool).await {
            Err(trouble) if tries.again(&trouble).await => {}
            done => return done,
        }
    }
}

async fn count_once(pool: &Pool) -> Result<(), PostgresFailure> {
    let mut connection = pool.get().await?;
    let transaction = connection.client()?.transaction().await?;
    // To count a large table takes longer than any operation may.
    transaction
        .batch_execute(&format!(
            "SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = '{LOCK_TIMEOUT}';
             SET LOCAL enable_seqscan = on"
        ))
        .await?;
    let begun = transaction.execute("SELECT idempotency_count_tenants(true)", &[]);
    if let Err(error) = begun.await {
        let trouble = PostgresFailure::from(error);
        return Err(match trouble.error {
            StoreError::Permanent(why) => PostgresFailure::permanent(format!(
                "{why}; the tables' owner may call idempotency_count_tenants(true) instead"
            )),
            _ => trouble,
        });
    }
    transaction.commit().await?;
    Ok(())
}

impl PostgresShared {
    pub(super) fn quotas(&self) -> Quotas {
        *self.quotas.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_quotas(&self, quotas: Quotas) {
        *self.quotas.write().unwrap_or_else(PoisonError::into_inner) = quotas;
    }
}
