//! The schema: versioned scripts inside the program.

use super::error::Trouble;
use super::pool::{Connection, Pool};

/// The scripts in order; the first one leads to version 1.
const MIGRATIONS: &[&str] = &[
    include_str!("migrations/0001_records.sql"),
    include_str!("migrations/0002_quotas.sql"),
];

/// The oldest server that is known to work.
const OLDEST_SERVER: i32 = 150_000;

/// "idempote" in ASCII: the lock that migrations of several processes queue for.
const LOCK: i64 = 0x6964_656d_706f_7465;

/// The version that this program works with.
pub(super) fn newest() -> i32 {
    i32::try_from(MIGRATIONS.len()).unwrap_or(i32::MAX)
}

/// Brings the schema to the newest version; returns the version before and after. Several
/// processes may do so at the same time.
pub(super) async fn migrate(pool: &Pool) -> Result<(i32, i32), Trouble> {
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
    let before: i32 = transaction
        .query_one(
            "SELECT coalesce(max(version), 0) FROM idempotency_schema",
            &[],
        )
        .await?
        .get(0);
    refuse_newer(before)?;
    for (version, script) in (1i32..).zip(MIGRATIONS) {
        if version > before {
            transaction.batch_execute(script).await?;
            transaction
                .execute(
                    "INSERT INTO idempotency_schema (version) VALUES ($1)",
                    &[&version],
                )
                .await?;
        }
    }
    transaction.commit().await?;
    Ok((before, newest()))
}

/// Refuses servers and schemas that this program does not know.
pub(super) async fn check(connection: &Connection) -> Result<(), Trouble> {
    check_server(connection).await?;
    let found = connection
        .query(
            "SELECT to_regclass('idempotency_schema') IS NOT NULL, current_database()",
            &[],
        )
        .await?;
    let there = found.first().is_some_and(|row| row.get(0));
    let database: &str = found.first().map_or("", |row| row.get(1));
    let version = if there { version(connection).await? } else { 0 };
    refuse_newer(version)?;
    if version < newest() {
        let what = match version {
            0 => "has no schema for this store".to_owned(),
            old => format!(
                "has version {old} of the schema, version {} is needed",
                newest()
            ),
        };
        return Err(Trouble::permanent(format!(
            "database {database} {what}: run `idempotencyd migrate`, or serve with --migrate"
        )));
    }
    Ok(())
}

async fn version(connection: &Connection) -> Result<i32, Trouble> {
    let rows = connection
        .query(
            "SELECT coalesce(max(version), 0) FROM idempotency_schema",
            &[],
        )
        .await?;
    Ok(rows.first().map_or(0, |row| row.get(0)))
}

fn refuse_newer(found: i32) -> Result<(), Trouble> {
    if found > newest() {
        return Err(Trouble::permanent(format!(
            "the schema has version {found}, this program knows up to {}: run a newer idempotencyd",
            newest()
        )));
    }
    Ok(())
}

async fn check_server(connection: &Connection) -> Result<(), Trouble> {
    let rows = connection
        .query("SELECT current_setting('server_version_num')::integer", &[])
        .await?;
    refuse_old(rows.first().map_or(0, |row| row.get(0)))
}

fn refuse_old(server: i32) -> Result<(), Trouble> {
    if server < OLDEST_SERVER {
        return Err(Trouble::permanent(format!(
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
        assert!(refuse_newer(newest()).is_ok());
        let new = refuse_newer(newest() + 1).unwrap_err().error.to_string();
        assert!(new.contains("run a newer"), "{new}");
    }
}
