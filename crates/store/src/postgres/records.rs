//! One record at a time: waiting, looking, listing, resolving.

use super::apply::Retry;
use super::error::PostgresFailure;
use super::groups::context;
use super::ids::{range, Id};
use super::row::{columns, found, legible, micros, FoundRow};
use super::step::{self, SeenRow};
use super::write::{self, write, Change, Written};
use super::PostgresShared;
use crate::keys::{self, PageBuilder};
use crate::machine::{self, Reply, Room, WaitStep};
use crate::record::{Slot, StoredOutcome};
use crate::replay;
use crate::store::{ListFilter, Page, RecordView, Resolve, Resolved};
use crate::waiters::Look;
use idempotency_protocol::{Answer, AttemptKind, Fault, LookupKey, Wait};
use std::time::{Duration, SystemTime};
use tokio::time::{sleep, Instant};

/// Asks for a notification when this execution ends. Longer than the wait, so that those who come
/// later need not write again. True: it could not ask, since somebody else has locked the row.
///
/// Nothing is lost with it but time, so its commit does not wait for the disk, and the row is not locked for as long.
///
/// The transaction of an application notifies nobody, and a row that it has read must not change before it
/// writes: so nothing is asked of a record whose attempt is one (the fourth byte of its history).
const MARK_WAIT: &str = concat!(
    "WITH wanted AS MATERIALIZED (
        SELECT r.id FROM idempotency_records r
        WHERE r.id = $1 AND r.fence = $2 AND r.state IN ('executing', 'settled')
            AND (r.waited_until IS NULL
                OR r.waited_until < idempotency_now() + $3::bigint * interval '1 ms')
            AND substring(r.history FROM 4 FOR 1) IS DISTINCT FROM '\\x02'
            AND ",
    legible!(),
    "),
    mine AS MATERIALIZED (
        SELECT r.id FROM wanted JOIN idempotency_records r ON r.id = wanted.id
        WHERE set_config('synchronous_commit', 'off', true) = 'off'
        FOR NO KEY UPDATE OF r SKIP LOCKED),
    marked AS (
        UPDATE idempotency_records r
        SET waited_until = idempotency_now() + ($3::bigint + 30000) * interval '1 ms'
        FROM mine WHERE r.id = mine.id
        RETURNING 1)
    SELECT EXISTS (SELECT FROM wanted) AND NOT EXISTS (SELECT FROM marked)"
);

/// How often somebody looks who is not notified: the execution is the transaction of an application, or the row is
/// locked, most likely by one.
const LOOK_AGAIN_MS: u64 = 250;

const LIST: &str = concat!(
    "SELECT coalesce(r.long_key, r.id), idempotency_now(), ",
    columns!("r.about", "NULL::bytea"),
    " FROM idempotency_records r
     WHERE r.id >= $1 AND r.id < $2 ORDER BY r.id LIMIT $3"
);

impl PostgresShared {
    pub(super) async fn wait(&self, wait: Wait) -> Answer {
        let id = Id::of(&wait.key);
        let look = || async {
            // A wait does not outlive its store.
            let Ok(_open) = self.enter().await else {
                return Look::Over(Answer::TimedOut);
            };
            let mut retry = Retry::within(self.retry_budget);
            loop {
                match self.look(&id, &wait).await {
                    Ok(look) => return look,
                    Err(trouble) if retry.again(&trouble).await => {}
                    Err(trouble) => return Look::Over(Answer::Fault(Fault::from(trouble.error))),
                }
            }
        };
        self.waiters.wait(&wait, look).await
    }

    /// Says that somebody waits, *then* looks: who ends the execution after the look sees that.
    async fn look(&self, id: &Id, wait: &Wait) -> Result<Look, PostgresFailure> {
        // Never closed.
        let _turn = self.looks.acquire().await;
        let connection = self.pool.get().await?;
        let fence = super::row::signed(wait.fence);
        let wait_ms = super::row::ttl(wait.wait_ms);
        let mark = async {
            if wait_ms == 0 {
                return Ok(Vec::new());
            }
            connection
                .query(MARK_WAIT, &[&id.id, &fence, &wait_ms])
                .await
        };
        let asked = [(id, true)];
        connection.prepare(&[MARK_WAIT, step::READ]).await?;
        // Sent together, carried out one after the other.
        let (marked, seen) = tokio::try_join!(mark, step::read(&connection, &asked))?;
        drop(connection);
        let locked = marked.first().is_some_and(|row| row.get(0));
        let seen = one(seen)?;
        let context = context(seen.now, Room::Plenty);
        Ok(match machine::wait(seen.found.slot(), &context, wait) {
            WaitStep::Over(Reply::Replay(found)) => Look::Over(replay::answer(found)),
            // The lease is over, but the transaction that holds the row may still complete it.
            WaitStep::Over(Reply::Answer(_)) if locked => Look::Wait {
                lease_left_ms: LOOK_AGAIN_MS,
            },
            WaitStep::Over(Reply::Answer(answer)) => Look::Over(answer),
            WaitStep::Wait { lease_left_ms } if locked || is_transaction(&seen) => Look::Wait {
                lease_left_ms: lease_left_ms.min(LOOK_AGAIN_MS),
            },
            WaitStep::Wait { lease_left_ms } => Look::Wait { lease_left_ms },
        })
    }

    pub(super) async fn inspect(
        &self,
        key: &LookupKey,
    ) -> Result<Option<RecordView>, PostgresFailure> {
        let id = Id::of(key);
        let connection = self.pool.get().await?;
        let seen = step::inspect(&connection, &id).await?;
        let context = context(seen.now, Room::Plenty);
        Ok(machine::view(readable(&seen)?, &context, key))
    }

    pub(super) async fn stored(
        &self,
        key: &LookupKey,
    ) -> Result<Option<StoredOutcome>, PostgresFailure> {
        let id = Id::of(key);
        let connection = self.pool.get().await?;
        let seen = one(step::read(&connection, &[(&id, true)]).await?)?;
        drop(connection);
        let context = context(seen.now, Room::Plenty);
        Ok(machine::stored(readable(&seen)?, &context))
    }

    /// Everything under a key.
    pub(super) async fn export(&self, key: &LookupKey) -> Result<Option<Slot>, PostgresFailure> {
        let id = Id::of(key);
        let connection = self.pool.get().await?;
        let seen = step::export(&connection, &id).await?;
        Ok(readable(&seen)?.cloned())
    }

    /// Puts a slot in the place of that version; nobody is waited for who has locked the row.
    pub(super) async fn replace(
        &self,
        key: &LookupKey,
        replaces: u64,
        slot: Option<&Slot>,
    ) -> Result<bool, PostgresFailure> {
        let id = Id::of(key);
        let connection = self.pool.get().await?;
        let replaced = match slot {
            None => write::remove(&connection, &id, replaces).await?,
            Some(slot) => {
                let change = Change {
                    id: &id,
                    replaces,
                    slot,
                };
                write::rewrite(&connection, &change).await?
            }
        };
        if replaced {
            self.waiters.wake(key);
        }
        Ok(replaced)
    }

    pub(super) async fn resolve(&self, request: &Resolve) -> Result<Resolved, PostgresFailure> {
        let id = Id::of(&request.key);
        let connection = self.pool.get().await?;
        let begun = Instant::now();
        // The loop ends: another writer that was faster has changed the version.
        loop {
            // With the description, which the operator's answer tells.
            let seen = step::inspect(&connection, &id).await?;
            let context = context(seen.now, Room::Plenty);
            readable(&seen)?;
            let start = seen.start();
            let (change, resolved) = machine::resolve(Some(&start), &context, request);
            let Some(slot) = change else {
                return Ok(resolved);
            };
            let change = Change {
                id: &id,
                replaces: seen.version(),
                slot: &slot,
            };
            match write(&connection, &[change]).await?.get(&id.id) {
                Some(Written::Yes) => {
                    self.waiters.wake(&request.key);
                    return Ok(resolved);
                }
                Some(Written::Locked) if begun.elapsed() >= self.lock_timeout => {
                    return Err(PostgresFailure::too_slow(
                        "PostgreSQL: a transaction that has not ended holds the record",
                    ));
                }
                Some(Written::Locked) => sleep(Duration::from_millis(5)).await,
                None => {}
            }
        }
    }

    pub(super) async fn list(&self, filter: &ListFilter) -> Result<Page, PostgresFailure> {
        let prefix = keys::prefix(filter);
        let (mut start, end) = range(&prefix);
        // Above every key: the first byte belongs to a length that no tenant has.
        let end = end.unwrap_or_else(|| vec![u8::MAX]);
        if let Some(after) = filter.after.as_ref().filter(|after| **after >= prefix) {
            start = following(after);
        }
        let connection = self.pool.get().await?;
        let mut page = PageBuilder::new(filter);
        let chunk = filter.limit.clamp(1, keys::MAX_PAGE) + 1;
        let limit = i64::try_from(chunk).unwrap_or(i64::MAX);
        loop {
            let rows = connection.query(LIST, &[&start, &end, &limit]).await?;
            for row in &rows {
                if page.is_full() {
                    return Ok(page.finish());
                }
                let key: &[u8] = row.get(0);
                let context = context(micros(row.get::<_, SystemTime>(1)), Room::Plenty);
                // What this program cannot read is left out.
                if let FoundRow::Slot(slot) = found(row, 2) {
                    page.offer(key, &slot, &context);
                }
            }
            match rows.last() {
                Some(last) if rows.len() == chunk => start = following(last.get(0)),
                _ => return Ok(page.finish()),
            }
        }
    }
}

/// The first id after that of this key.
pub(super) fn following(key: &[u8]) -> Vec<u8> {
    let mut id = Id::of_bytes(key.to_vec()).id;
    id.push(0);
    id
}

/// Whether the execution is the transaction of an application.
fn is_transaction(seen: &SeenRow) -> bool {
    let execution = seen.found.slot().and_then(|slot| slot.execution.as_ref());
    execution.is_some_and(|e| e.history.newest == AttemptKind::Transaction)
}

/// For an operator, who must not be told that nothing is there.
fn readable(seen: &SeenRow) -> Result<Option<&Slot>, PostgresFailure> {
    match &seen.found {
        FoundRow::Illegible(what) => Err(PostgresFailure::permanent(format!(
            "this version cannot read the record: {what}"
        ))),
        found => Ok(found.slot()),
    }
}

fn one(seen: Vec<SeenRow>) -> Result<SeenRow, PostgresFailure> {
    seen.into_iter()
        .next()
        .ok_or_else(|| PostgresFailure::transient("no answer"))
}
