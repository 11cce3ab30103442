//! The server's own limit: `pgbench` with the store's statements.

use std::process::Command;

use bytes::Bytes;
use idempotency_protocol::AttemptKind;
use idempotency_stack::{Error, Postgres};
use idempotency_store::history::History;
use idempotency_store::postgres::{COMPLETE_STATEMENT, GRANT_STATEMENT};

use crate::work::{outcome, Lap, LEASE_MS, REQUEST_DIGEST, SCHEME, TTL_MS};

/// Keys that are replayed.
const KNOWN: u64 = 1000;
/// As the store sets up its sessions.
const SESSION: &str = "-c plan_cache_mode=force_generic_plan -c enable_seqscan=off \
    -c enable_bitmapscan=off -c enable_hashjoin=off -c enable_mergejoin=off -c jit=off";

/// A database with the store's schema.
pub struct PgBench<'a> {
    server: &'a Postgres,
    database: &'a str,
}

impl<'a> PgBench<'a> {
    /// For this database.
    pub fn new(server: &'a Postgres, database: &'a str) -> Self {
        Self { server, database }
    }

    /// Acquires of new keys, each completed; so many of each client.
    ///
    /// # Errors
    ///
    /// If it cannot be run, or not every key was granted and completed.
    pub fn firsts(
        &self,
        run: &str,
        body: &Bytes,
        clients: usize,
        transactions: u64,
    ) -> Result<Lap, Error> {
        let next = "\\set i :i + 1\n\\set n :client_id * 100000000 + :i\n";
        let script = format!("{next}{};\n{};\n", grant(run, "owner"), complete(run));
        let mut lap = self.run(&script, body, clients, transactions)?;
        self.expect(run, lap.operations)?;
        lap.operations *= 2;
        Ok(lap)
    }

    /// Replays of keys that are completed beforehand; so many of each client.
    ///
    /// # Errors
    ///
    /// If it cannot be run, or changed anything.
    pub fn replays(
        &self,
        run: &str,
        body: &Bytes,
        clients: usize,
        transactions: u64,
    ) -> Result<Lap, Error> {
        self.firsts(run, body, 1, KNOWN)?;
        let draw = format!("\\set n random(1, {KNOWN})\n");
        let script = format!("{draw}{};\n", grant(run, "other"));
        let lap = self.run(&script, body, clients, transactions)?;
        self.expect(run, KNOWN)?;
        Ok(lap)
    }

    fn run(
        &self,
        script: &str,
        body: &Bytes,
        clients: usize,
        transactions: u64,
    ) -> Result<Lap, Error> {
        let failed = |error: std::io::Error| Error::new(format!("pgbench: {error}"));
        let dir = tempfile::tempdir().map_err(failed)?;
        let file = dir.path().join("script.sql");
        std::fs::write(&file, script).map_err(failed)?;
        // Of the same size as what the store keeps; letters and digits, for the command line.
        let data = outcome(body).encode().len();
        let data: Vec<u8> = body.iter().cycle().copied().take(data).collect();
        let mut command = Command::new(self.server.program("pgbench"));
        command
            .args(["--no-vacuum", "--protocol=prepared", "--jobs=1"])
            .arg(format!("--client={clients}"))
            .arg(format!("--transactions={transactions}"))
            .arg(format!("--file={}", file.display()))
            .args(["--define=i=0", "--define=owner=owner-0123456789"])
            .arg("--define=other=other-0123456789")
            .arg(format!("--define=body={}", String::from_utf8_lossy(&data)))
            .env("PGOPTIONS", SESSION);
        let ran = command.arg(self.server.url(self.database)).output();
        let ran = ran.map_err(failed)?;
        let said = String::from_utf8_lossy(&ran.stdout);
        let lap = lap(&said).filter(|_| ran.status.success());
        lap.ok_or_else(|| {
            let error = String::from_utf8_lossy(&ran.stderr);
            let from = error.len().saturating_sub(1000);
            let end = error.get(from..).unwrap_or_default();
            Error::new(format!("pgbench: {} {said} {end}", ran.status))
        })
    }

    /// Every key of the run is completed, at its first attempt, and there are so many.
    fn expect(&self, run: &str, keys: u64) -> Result<(), Error> {
        let count = format!(
            "SELECT count(*), count(*) FILTER (WHERE state = 'completed' AND attempt = 1) \
             FROM idempotency_records WHERE id >= 'r{run}-' AND id < 'r{run}.'"
        );
        let counted = self.server.sql(self.database, &count);
        if counted == format!("{keys}|{keys}") {
            return Ok(());
        }
        Err(Error::new(format!(
            "pgbench: {keys} completed keys were expected, not {counted} (all|completed)"
        )))
    }
}

/// Spread over the whole index, as clients' random keys are.
fn key(run: &str) -> String {
    let number = "(:n)::bigint::text";
    format!("ARRAY[convert_to('r{run}-' || md5({number}) || {number}, 'UTF8')]")
}

/// The store's acquire of key `n`.
fn grant(run: &str, owner: &str) -> String {
    fill(
        GRANT_STATEMENT,
        &[
            key(run),
            "ARRAY[NULL]".to_owned(),
            format!("ARRAY[:{owner}]"),
            format!("ARRAY[{}]", SCHEME.0),
            format!("ARRAY['{}']", String::from_utf8_lossy(&REQUEST_DIGEST)),
            format!("ARRAY[{LEASE_MS}]"),
            format!("ARRAY[{TTL_MS}]"),
            format!("ARRAY[{TTL_MS}]"),
            format!("ARRAY['\\x{}']", history()),
            "ARRAY[NULL]".to_owned(),
        ],
    )
}

/// The store's complete of key `n`.
fn complete(run: &str) -> String {
    fill(
        COMPLETE_STATEMENT,
        &[
            key(run),
            "ARRAY[:owner]".to_owned(),
            "ARRAY[201]".to_owned(),
            "ARRAY[200]".to_owned(),
            format!("ARRAY['{}']", String::from_utf8_lossy(&REQUEST_DIGEST)),
            "ARRAY[300]".to_owned(),
            "ARRAY[:body]".to_owned(),
        ],
    )
}

/// The history of a new record, in hexadecimal digits.
fn history() -> String {
    let history = History::first(AttemptKind::Gateway, None, 0).encode();
    history.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Puts expressions in the place of `$1`, `$2`, …, each of which the statement casts.
fn fill(statement: &str, values: &[String]) -> String {
    let mut filled = statement.to_owned();
    for (at, value) in values.iter().enumerate() {
        filled = filled.replace(&format!("${}::", at + 1), &format!("{value}::"));
    }
    filled
}

/// From `tps = 123.4 (without initial connection time)` and the lines beside it. Its latency is
/// the mean, of one transaction.
fn lap(said: &str) -> Option<Lap> {
    let after = |mark: &str| {
        let line = said.lines().find_map(|line| line.strip_prefix(mark))?;
        line.split([' ', '/']).next()?.parse::<f64>().ok()
    };
    let (rate, latency) = (after("tps = ")?, after("latency average = ")?);
    let transactions = after("number of transactions actually processed: ")?;
    (rate > 0.0).then(|| Lap {
        operations: transactions as u64,
        seconds: transactions / rate,
        p50_us: latency * 1e3,
        p99_us: 0.0,
        server_s: 0.0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_parameter_is_filled() {
        for statement in [grant("7", "owner"), complete("7")] {
            assert!(!statement.contains('$'), "{statement}");
            assert!(statement.contains("(:n)::bigint"), "{statement}");
        }
    }

    #[test]
    fn what_pgbench_prints() {
        let said = "number of transactions actually processed: 500/500\n\
                    latency average = 0.250 ms\ntps = 4000.5 (without initial connection time)\n";
        let lap = lap(said).unwrap();
        assert_eq!((lap.operations, lap.p50_us), (500, 250.0));
        assert!((lap.rate() - 4000.5).abs() < 0.1);
    }
}
