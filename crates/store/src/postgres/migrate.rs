//! The schema: numbered scripts inside the program, and a version that says which services can use it.

use super::error::{PostgresFailure, RetryAdvice};
use super::pool::{Pool, PooledConnection};
use std::time::Duration;

/// A script that changes the schema.
struct Script {
    text: &'static str,
    /// The version that the schema has with it. Services demand that the version is theirs, so a script after
    /// which they can go on leaves it as it is.
    version: i32,
}

/// The scripts in order; the first one has number 1.
const SCRIPTS: &[Script] = &[
    Script {
        text: include_str!("migrations/0001_records.sql"),
        version: 1,
    },
    Script {
        text: include_str!("migrations/0002_quotas.sql"),
        version: 2,
    },
    Script {
        text: include_str!("migrations/0003_histories.sql"),
        version: 2,
    },
    Script {
        text: include_str!("migrations/0004_transactions.sql"),
        version: 2,
    },
];

/// The version that this program works with.
pub(super) const VERSION: i32 = 2;

/// The oldest server that is known to work.
const OLDEST_SERVER: i32 = 150_000;

/// "idempote" in ASCII: the lock that migrations of several processes queue for.
const LOCK: i64 = 0x6964_656d_706f_7465;

/// How long a change of a table waits for those who use the table. Everybody else waits behind it, so this is
/// short, and it is tried again.
pub(super) const LOCK_TIMEOUT: &str = "500ms";

/// How often that is tried, and the pause in between: for two minutes.
const TRIES: u32 = 80;
const PAUSE: Duration = Duration::from_secs(1);

/// Tries of a change that a transaction of somebody else holds up.
#[derive(Default)]
pub(super) struct Tries(u32);

impl Tries {
    /// Waits a little if it is worth another try.
    pub async fn again(&mut self, trouble: &PostgresFailure) -> bool {
        self.0 += 1;
        if trouble.kind != RetryAdvice::TooSlow || self.0 > TRIES {
            return false;
        }
        tokio::time::sleep(PAUSE).await;
        true
    }
}

/// What the schema is: its version, and the number of the newest script. Older schemas have no column for the
/// latter.
const WHICH: &str = "
    SELECT coalesce(max(version), 0),
        coalesce(max(coalesce((to_jsonb(s) ->> 'script')::integer, version)), 0)
    FROM idempotency_schema s";

const WHERE: &str = "
    SELECT n.nspname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.oid = 'idempotency_records'::regclass";

/// The number of the newest script.
fn newest() -> i32 {
    i32::try_from(SCRIPTS.len()).unwrap_or(i32::MAX)
}

/// Brings the schema up to date; returns the number of its newest script before and after. Several processes may do
/// so at the same time.
pub(super) async fn migrate(pool: &Pool) -> Result<(i32, i32), PostgresFailure> {
    let mut tries = Tries::default();
    loop {
        match migrate_once(pool).await {
            Err(trouble) if tries.again(&trouble).await => {}
            Err(trouble) if trouble.kind == RetryAdvice::TooSlow => {
                return Err(PostgresFailure::too_slow(format!(
                    "a transaction uses the tables all the time, end it and migrate again: {}",
                    trouble.error
                )));
            }
            done => return done,
        }
    }
}

async fn migrate_once(pool: &Pool) -> Result<(i32, i32), PostgresFailure> {
    let mut connection = pool.get().await?;
    check_server(&connection).await?;
    let transaction = connection.client()?.transaction().await?;
    // Building an index on a large table takes longer than any operation may.
    transaction
        .batch_execute("SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0")
        .await?;
    transaction
        .execute("SELECT pg_advisory_xact_lock($1)", &[&LOCK])
        .await?;
    transaction
        .batch_execute(
            "CREATE TABLE IF NOT EXISTS idempotency_schema (
                 version    integer     PRIMARY KEY,
                 applied_at timestamptz NOT NULL DEFAULT now()
             )",
        )
        .await?;
    let found = transaction.query_one(WHICH, &[]).await?;
    let (mut version, before): (i32, i32) = (found.get(0), found.get(1));
    refuse_newer(version)?;
    let timeout = format!("SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'");
    transaction.batch_execute(&timeout).await?;
    for (number, script) in (1i32..).zip(SCRIPTS) {
        if number <= before {
            continue;
        }
        transaction.batch_execute(script.text).await?;
        if script.version > version {
            version = script.version;
            let insert = "INSERT INTO idempotency_schema (version) VALUES ($1)";
            transaction.execute(insert, &[&version]).await?;
        } else {
            let update = "UPDATE idempotency_schema SET script = $1 WHERE version = $2";
            transaction.execute(update, &[&number, &version]).await?;
        }
    }
    transaction.commit().await?;
    Ok((before, newest().max(before)))
}

/// Refuses servers and schemas that this program does not know. Returns the name of the schema (namespace) that
/// the tables are in.
pub(super) async fn check(connection: &PooledConnection) -> Result<String, PostgresFailure> {
    check_server(connection).await?;
    let found = connection
        .query(
            "SELECT to_regclass('idempotency_schema') IS NOT NULL, current_database()",
            &[],
        )
        .await?;
    let there = found.first().is_some_and(|row| row.get(0));
    let database: &str = found.first().map_or("", |row| row.get(1));
    let (version, script) = if there {
        which(connection).await?
    } else {
        (0, 0)
    };
    refuse_newer(version)?;
    if script < newest() {
        let what = match script {
            0 => "has no schema for this store".to_owned(),
            old => format!(
                "has version {old} of the schema, version {} is needed",
                newest()
            ),
        };
        return Err(PostgresFailure::permanent(format!(
            "database {database} {what}: run `idempotencyd migrate`, or serve with --migrate"
        )));
    }
    let rows = connection.query(WHERE, &[]).await?;
    match rows.first() {
        Some(row) => Ok(row.get(0)),
        None => Err(PostgresFailure::transient("no answer")),
    }
}

async fn which(connection: &PooledConnection) -> Result<(i32, i32), PostgresFailure> {
    let rows = connection.query(WHICH, &[]).await?;
    Ok(rows.first().map_or((0, 0), |row| (row.get(0), row.get(1))))
}

fn refuse_newer(found: i32) -> Result<(), PostgresFailure> {
    if found > VERSION {
        return Err(PostgresFailure::permanent(format!(
            "the schema is for programs that know version {found}, this one does not: run a newer idempotencyd"
        )));
    }
    Ok(())
}

async fn check_server(connection: &PooledConnection) -> Result<(), PostgresFailure> {
    let rows = connection
        .query("SELECT current_setting('server_version_num')::integer", &[])
        .await?;
    refuse_old(rows.first().map_or(0, |row| row.get(0)))
}

fn refuse_old(server: i32) -> Result<(), PostgresFailure> {
    if server < OLDEST_SERVER {
        return Err(PostgresFailure::permanent(format!(
            "the server is PostgreSQL {}.{}, {} or newer is needed",
            server / 10_000,
            server % 10_000,
            OLDEST_SERVER / 10_000
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_servers_and_new_schemas_are_refused_by_name() {
        assert!(refuse_old(150_000).is_ok());
        let old = refuse_old(140_012).unwrap_err().error.to_string();
        assert!(old.contains("PostgreSQL 14.12, 15 or newer"), "{old}");
        assert!(refuse_newer(VERSION).is_ok());
        let new = refuse_newer(VERSION + 1).unwrap_err().error.to_string();
        assert!(new.contains("run a newer"), "{new}");
    }
}
