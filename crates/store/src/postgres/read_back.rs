//! How a transaction of an application ended whose commit got no answer.

use super::error::PostgresFailure;
use super::ids::Id;
use super::row::{legible, micros, signed, unsigned};
use super::PostgresShared;
use crate::transaction::{Primary, ReadBack};
use idempotency_protocol::{LookupKey, Owner};
use std::time::SystemTime;

/// The lock waits for a transaction that has changed the row and is not finished, `lock_timeout` at most.
const READ_BACK: &str = concat!(
    "SELECT r.state, r.owner, r.fence, r.due FROM idempotency_records r WHERE r.id = $1 AND ",
    legible!(),
    " FOR NO KEY UPDATE"
);

/// Wakes listeners in all processes; one commit for all keys. It changes nothing that a crash could lose, so it does
/// not wait for the disk.
const WAKE: &str = "WITH t AS MATERIALIZED (
        SELECT set_config('synchronous_commit', 'off', true) = 'off' AS is_set)
    SELECT pg_notify('idempotency_changed', encode(i.id, 'hex'))::text
    FROM unnest($1::bytea[]) AS i(id) CROSS JOIN t
    WHERE t.is_set";

impl PostgresShared {
    pub(super) async fn read_back(
        &self,
        key: &LookupKey,
        owner: Owner,
        fence: u64,
        begun_on: Primary,
    ) -> Result<ReadBack, PostgresFailure> {
        let id = Id::of(key);
        let connection = self.pool.get().await?;
        let rows = connection.query(READ_BACK, &[&id.id]).await?;
        let Some(row) = rows.first() else {
            return Ok(ReadBack::Unknown);
        };
        let (state, holder): (&str, Option<&[u8]>) = (row.get(0), row.get(1));
        let newest = unsigned(row.get(2));
        let is_ours = holder == Some(owner.0.as_slice()) && newest == fence;
        if is_ours && state == "completed" {
            let due = row.get::<_, Option<SystemTime>>(3);
            let expires_at_ms = due.map_or(0, |due| micros(due) / 1_000);
            return Ok(ReadBack::Committed { expires_at_ms });
        }
        // What was committed on a server that was replaced may be gone, and may have been seen.
        if !connection.primary().is(begun_on) {
            return Ok(ReadBack::Unknown);
        }
        Ok(match holder {
            _ if is_ours => ReadBack::RolledBack,
            Some(_) if signed(newest) > signed(fence) => ReadBack::Lost,
            // An operator has decided.
            _ => ReadBack::Unknown,
        })
    }

    pub(super) async fn wake(&self, keys: &[LookupKey]) -> Result<(), PostgresFailure> {
        for key in keys {
            self.waiters.wake(key);
        }
        let ids: Vec<Vec<u8>> = keys.iter().map(|key| Id::of(key).id).collect();
        let connection = self.pool.get().await?;
        connection.query(WAKE, &[&ids]).await.map(drop)
    }
}
