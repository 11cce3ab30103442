//! A service of the release before, as the database sees it: its statements, word for word (commit 94ea500), and
//! as much of its decisions as the tests need.

use crate::common::{fingerprint, key, response, TTL_MS};
use crate::server::Database;
use idempotency_store::record::StoredOutcome;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio_postgres::{Client, Row};

pub const GRANT: &str = include_str!("grant.sql");
pub const GRANT_WITHIN: &str = include_str!("grant_within.sql");
pub const COMPLETE: &str = include_str!("complete.sql");
pub const READ: &str = include_str!("read.sql");
pub const WRITE: &str = include_str!("write.sql");
pub const SWEEP: &str = include_str!("sweep.sql");
pub const MEASURE: &str = include_str!("measure.sql");

/// The scripts that it knows.
const SCRIPTS: [&str; 2] = [
    include_str!("../../../src/postgres/migrations/0001_records.sql"),
    include_str!("../../../src/postgres/migrations/0002_quotas.sql"),
];

pub struct Previous {
    pub client: Client,
}

/// A row as it knows rows.
#[derive(Clone, Debug, PartialEq)]
pub struct OldRow {
    pub version: i64,
    pub fence: i64,
    pub state: String,
    pub owner: Option<Vec<u8>>,
    pub scheme: Option<i64>,
    pub digest: Option<Vec<u8>>,
    pub attempt: Option<i64>,
    pub ttl_ms: Option<i64>,
    pub unknown_ttl_ms: Option<i64>,
    pub created_at: Option<SystemTime>,
    pub changed_at: Option<SystemTime>,
    pub lease_until: Option<SystemTime>,
    pub status: Option<i32>,
    pub body_bytes: Option<i64>,
    pub outcome_digest: Option<Vec<u8>>,
    pub outcome_size: Option<i64>,
    pub marks: Vec<u8>,
    pub outcome: Option<Vec<u8>>,
}

impl OldRow {
    /// From the columns after this many.
    fn read(row: &Row, first: usize) -> Option<OldRow> {
        let version = row.get::<_, Option<i64>>(first)?;
        let old = OldRow {
            version,
            fence: row.get(first + 1),
            state: row.get(first + 2),
            owner: row.get(first + 3),
            scheme: row.get(first + 4),
            digest: row.get(first + 5),
            attempt: row.get(first + 6),
            ttl_ms: row.get(first + 7),
            unknown_ttl_ms: row.get(first + 8),
            created_at: row.get(first + 9),
            changed_at: row.get(first + 10),
            lease_until: row.get(first + 11),
            status: row.get(first + 12),
            body_bytes: row.get(first + 13),
            outcome_digest: row.get(first + 14),
            outcome_size: row.get(first + 15),
            marks: row.get(first + 16),
            outcome: row.get(first + 17),
        };
        Some(old)
    }

    /// Whether that release could make anything of it: of another state it makes an error, and no grant.
    pub fn is_understood(&self) -> bool {
        let states = ["vacant", "executing", "completed", "failed", "unknown"];
        states.contains(&self.state.as_str())
    }
}

fn micros(at: SystemTime) -> i64 {
    i64::try_from(at.duration_since(UNIX_EPOCH).unwrap().as_micros()).unwrap()
}

fn after(at: SystemTime, ms: i64) -> SystemTime {
    at + Duration::from_millis(u64::try_from(ms).unwrap())
}

fn owner(n: u8) -> Vec<u8> {
    vec![n; 16]
}

fn id(name: &str) -> Vec<u8> {
    key(name).to_bytes()
}

impl Previous {
    /// Brings a database to that release's schema, as its `migrate` does.
    pub async fn migrate(database: &Database) {
        let client = database.client().await;
        client
            .batch_execute(
                "CREATE TABLE idempotency_schema (
                     version integer PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())",
            )
            .await
            .unwrap();
        for (version, script) in (1i32..).zip(SCRIPTS) {
            client.batch_execute(script).await.unwrap();
            let insert = "INSERT INTO idempotency_schema (version) VALUES ($1)";
            client.execute(insert, &[&version]).await.unwrap();
        }
    }

    pub async fn on(database: &Database) -> Previous {
        let client = database.client().await;
        Previous { client }
    }

    /// The version that it demands to be 2, when it starts and for as long as it is ready.
    pub async fn version(&self) -> i32 {
        let row = self.client.query_one(MEASURE, &[]).await.unwrap();
        row.get(1)
    }

    /// An acquire; the fence of the grant, if the key has no row.
    pub async fn grant(&self, name: &str, n: u8) -> Option<i64> {
        let digest = fingerprint().digest.to_vec();
        let ttl = i64::try_from(TTL_MS).unwrap();
        let row = self
            .client
            .query_one(
                GRANT,
                &[
                    &vec![id(name)],
                    &vec![None::<Vec<u8>>],
                    &vec![owner(n)],
                    &vec![i64::try_from(fingerprint().scheme.0).unwrap()],
                    &vec![digest],
                    &vec![60_000i64],
                    &vec![ttl],
                    &vec![ttl],
                ],
            )
            .await
            .unwrap();
        row.get(1)
    }

    /// The same with a quota of records.
    pub async fn grant_within(&self, name: &str, n: u8, records: i64) -> Option<i64> {
        let digest = fingerprint().digest.to_vec();
        let ttl = i64::try_from(TTL_MS).unwrap();
        let row = self
            .client
            .query_one(
                GRANT_WITHIN,
                &[
                    &vec![id(name)],
                    &vec![None::<Vec<u8>>],
                    &vec![owner(n)],
                    &vec![i64::try_from(fingerprint().scheme.0).unwrap()],
                    &vec![digest],
                    &vec![60_000i64],
                    &vec![ttl],
                    &vec![ttl],
                    &None::<i64>,
                    &Some(records),
                    &None::<i64>,
                ],
            )
            .await
            .unwrap();
        row.get(1)
    }

    /// A complete; whether it is stored.
    pub async fn complete(&self, name: &str, n: u8, body: &[u8]) -> bool {
        let outcome = StoredOutcome::new(&response(body));
        let row = self
            .client
            .query_one(
                COMPLETE,
                &[
                    &vec![id(name)],
                    &vec![owner(n)],
                    &vec![i32::from(outcome.status)],
                    &vec![outcome.body_bytes.map(|b| i64::try_from(b).unwrap())],
                    &vec![outcome.digest.to_vec()],
                    &vec![i64::try_from(outcome.size).unwrap()],
                    &vec![outcome.data.map(|data| data.to_vec())],
                ],
            )
            .await
            .unwrap();
        row.get::<_, Option<SystemTime>>(1).is_some()
    }

    /// What is under a key, and the store's time.
    pub async fn read(&self, name: &str) -> (Option<OldRow>, SystemTime) {
        let row = self
            .client
            .query_one(READ, &[&vec![id(name)], &vec![true]])
            .await
            .unwrap();
        (OldRow::read(&row, 3), row.get(1))
    }

    /// Writes what was decided on the row of that version.
    pub async fn write(&self, name: &str, replaces: i64, row: &OldRow, due: SystemTime) {
        let written = self
            .client
            .query(
                WRITE,
                &[
                    &vec![id(name)],
                    &vec![None::<Vec<u8>>],
                    &vec![replaces],
                    &vec![row.version],
                    &vec![row.fence],
                    &vec![row.state.as_str()],
                    &vec![row.owner.clone()],
                    &vec![row.scheme],
                    &vec![row.digest.clone()],
                    &vec![row.attempt],
                    &vec![row.ttl_ms],
                    &vec![row.unknown_ttl_ms],
                    &vec![row.created_at],
                    &vec![row.changed_at],
                    &vec![row.lease_until],
                    &vec![row.status],
                    &vec![row.body_bytes],
                    &vec![row.outcome_digest.clone()],
                    &vec![row.outcome_size],
                    &vec![row.outcome.clone()],
                    &vec![row.marks.clone()],
                    &vec![None::<SystemTime>],
                    &vec![due],
                ],
            )
            .await
            .unwrap();
        assert_eq!(written.len(), 1, "{name}: somebody else was faster");
    }

    /// Changes a row as a decision of the state machine does.
    async fn change(&self, name: &str, change: impl FnOnce(&mut OldRow, SystemTime)) {
        let (row, now) = self.read(name).await;
        let before = row.unwrap();
        let mut row = before.clone();
        row.version = (before.version + 1).max(micros(now));
        change(&mut row, now);
        let due = match row.lease_until {
            Some(until) => until,
            None => after(row.changed_at.unwrap(), row.ttl_ms.unwrap()),
        };
        self.write(name, before.version, &row, due).await;
    }

    /// The execution has failed, or may have been done: it goes by the owner alone.
    pub async fn end(&self, name: &str, n: u8, state: &str) {
        self.change(name, |row, now| {
            assert_eq!(row.state, "executing", "{name}");
            assert_eq!(row.owner, Some(owner(n)), "{name}");
            row.state = state.to_owned();
            row.lease_until = None;
            row.changed_at = Some(now);
        })
        .await;
    }

    /// Grants the next attempt.
    pub async fn grant_again(&self, name: &str, n: u8) {
        self.change(name, |row, now| {
            assert!(
                ["failed", "unknown"].contains(&row.state.as_str()),
                "{name}"
            );
            row.state = "executing".to_owned();
            row.owner = Some(owner(n));
            row.fence = (row.fence + 1).max(micros(now));
            row.attempt = row.attempt.map(|attempt| attempt + 1);
            row.lease_until = Some(after(now, 60_000));
            row.changed_at = Some(now);
        })
        .await;
    }

    /// Makes a record in the row of one that is over.
    pub async fn grant_anew(&self, name: &str, n: u8) {
        self.change(name, |row, now| {
            row.state = "executing".to_owned();
            row.owner = Some(owner(n));
            row.fence = (row.fence + 1).max(micros(now));
            row.attempt = Some(1);
            row.created_at = Some(now);
            (row.status, row.body_bytes, row.outcome_size) = (None, None, None);
            (row.outcome_digest, row.outcome) = (None, None);
            row.lease_until = Some(after(now, 60_000));
            row.changed_at = Some(now);
        })
        .await;
    }

    /// An operator's decision that it was not done.
    pub async fn resolve_to_failed(&self, name: &str) {
        self.change(name, |row, now| {
            row.state = "failed".to_owned();
            row.owner = None;
            row.lease_until = None;
            row.changed_at = Some(now);
        })
        .await;
    }

    pub async fn sweep(&self) {
        self.client.query(SWEEP, &[&1_000i64]).await.unwrap();
    }
}
