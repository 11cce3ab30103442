//! The server's own limit: `redis-benchmark` with the store's script.

use std::collections::BTreeMap;
use std::process::Command;

use bytes::Bytes;
use idempotency_bench::usage::cpu_time;
use idempotency_stack::{Error, Redis};
use idempotency_store::redis::SCRIPT;
use sha2::{Digest, Sha256};

use crate::work::{outcome, Lap, LEASE_MS, REQUEST_DIGEST, SCHEME, TTL_MS};

const OWNER: &str = "owner-0123456789";
/// Nobody who holds anything.
const OTHER: &str = "other-0123456789";
/// Completes draw their keys at random; of those that were granted beforehand, one in so many.
/// What is drawn twice is answered from the record and writes nothing, which makes the limit a
/// little too high: by half of one in so many.
const ROOM: u64 = 10;
/// Calls that are sent together while keys are made.
const CHUNK: u64 = 1000;

/// A server and the script that it knows.
pub struct RedisBench {
    port: u16,
    id: u32,
    sha: String,
    connection: redis::Connection,
}

/// What `redis-benchmark` does.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Its connections.
    pub clients: usize,
    /// Calls on their way on each.
    pub pipeline: usize,
    /// Calls in all.
    pub requests: u64,
}

impl RedisBench {
    /// Loads the script.
    ///
    /// # Errors
    ///
    /// If the server does not answer.
    pub fn new(server: &mut Redis) -> Result<Self, Error> {
        let client = redis::Client::open(server.url()).map_err(failed)?;
        let mut connection = client.get_connection().map_err(failed)?;
        let load = redis::cmd("SCRIPT").arg("LOAD").arg(SCRIPT).to_owned();
        Ok(Self {
            port: server.port(),
            id: server.process().id(),
            sha: load.query(&mut connection).map_err(failed)?,
            connection,
        })
    }

    /// Acquires of new keys.
    ///
    /// # Errors
    ///
    /// If it cannot be run, or not all were granted.
    pub fn acquires(&mut self, run: &str, shape: Shape) -> Result<Lap, Error> {
        let before = self.calls()?;
        let key = format!("{}__rand_int__", prefix(run));
        // As many different ones as it can make.
        let lap = self.run(shape, i32::MAX as u64, &key, &acquire(OWNER))?;
        self.expect("hset", &before, shape.requests, 0.999)?;
        Ok(lap)
    }

    /// Completes of keys that are granted beforehand.
    ///
    /// # Errors
    ///
    /// If it cannot be run, or not all were stored.
    pub fn completes(&mut self, run: &str, body: &Bytes, shape: Shape) -> Result<Lap, Error> {
        let keys = shape.requests * ROOM;
        self.make(run, keys, &[acquire(OWNER)])?;
        let before = self.calls()?;
        let key = format!("{}__rand_int__", prefix(run));
        let lap = self.run(shape, keys, &key, &complete(body))?;
        // A completed execution wakes whoever waits for it.
        let least = 1.0 - 1.0 / ROOM as f64;
        self.expect("spublish", &before, shape.requests, least)?;
        Ok(lap)
    }

    /// Replays of keys that are completed beforehand.
    ///
    /// # Errors
    ///
    /// If it cannot be run, or not all were replayed.
    pub fn replays(&mut self, run: &str, body: &Bytes, shape: Shape) -> Result<Lap, Error> {
        let keys = 1000;
        self.make(run, keys, &[acquire(OWNER), complete(body)])?;
        let before = self.calls()?;
        let key = format!("{}__rand_int__", prefix(run));
        let lap = self.run(shape, keys, &key, &acquire(OTHER))?;
        self.expect("hget", &before, shape.requests, 1.0)?;
        Ok(lap)
    }

    /// Forgets all records, and the files that remember them.
    ///
    /// # Errors
    ///
    /// If the server does not answer.
    pub fn forget(&mut self) -> Result<(), Error> {
        for name in ["FLUSHALL", "BGREWRITEAOF"] {
            let command = redis::cmd(name);
            command
                .query::<String>(&mut self.connection)
                .map_err(failed)?;
        }
        let connection = &mut self.connection;
        let mut said = String::new();
        let done = idempotency_stack::until(std::time::Duration::from_secs(60), || {
            let info = redis::cmd("INFO").arg("persistence").query(connection);
            said = info.unwrap_or_default();
            said.contains("aof_rewrite_in_progress:0") && said.contains("aof_rewrite_scheduled:0")
        });
        if done {
            Ok(())
        } else {
            Err(Error::new(format!(
                "Redis does not rewrite its file: {said}"
            )))
        }
    }

    /// Makes keys as `redis-benchmark` names them, each by all of these calls.
    fn make(&mut self, run: &str, count: u64, calls: &[Vec<Bytes>]) -> Result<(), Error> {
        for first in (0..count).step_by(CHUNK as usize) {
            let mut pipeline = redis::pipe();
            for n in first..count.min(first + CHUNK) {
                for call in calls {
                    let command = pipeline.cmd("EVALSHA").arg(&self.sha).arg(1);
                    command.arg(format!("{}{n:012}", prefix(run)));
                    for argument in call {
                        command.arg(argument.as_ref());
                    }
                    command.ignore();
                }
            }
            pipeline.query::<()>(&mut self.connection).map_err(failed)?;
        }
        Ok(())
    }

    fn run(&self, shape: Shape, keys: u64, key: &str, call: &[Bytes]) -> Result<Lap, Error> {
        let before = cpu_time(self.id);
        let ran = Command::new("redis-benchmark")
            .args(["-h", "127.0.0.1", "--csv"])
            .args(["-p", &self.port.to_string()])
            .args(["-c", &shape.clients.to_string()])
            .args(["-P", &shape.pipeline.to_string()])
            .args(["-n", &shape.requests.to_string()])
            .args(["-r", &keys.to_string()])
            .args(["EVALSHA", &self.sha, "1", key])
            .args(call.iter().map(|argument| {
                // Letters and digits, but for histories: a command line carries no zero bytes, and the
                // script keeps what it is given.
                String::from_utf8_lossy(argument).replace('\0', "0")
            }))
            .output()
            .map_err(|error| {
                let hint = "is it installed? `apt-get install redis-tools`";
                Error::new(format!("cannot run redis-benchmark: {error} ({hint})"))
            })?;
        let server = cpu_time(self.id) - before;
        let said = String::from_utf8_lossy(&ran.stdout);
        let lap = said
            .lines()
            .last()
            .and_then(|line| lap(line, shape.requests));
        let lap = lap.filter(|_| ran.status.success());
        let lap = lap.map(|lap| Lap {
            server_s: server.as_secs_f64(),
            ..lap
        });
        lap.ok_or_else(|| {
            let error = String::from_utf8_lossy(&ran.stderr);
            let last = said.lines().last().unwrap_or_default();
            Error::new(format!("redis-benchmark: {} {last} {error}", ran.status))
        })
    }

    /// How often the server was called by each name, by the script too.
    fn calls(&mut self) -> Result<BTreeMap<String, u64>, Error> {
        let info = redis::cmd("INFO").arg("commandstats").to_owned();
        let info: String = info.query(&mut self.connection).map_err(failed)?;
        Ok(info.lines().filter_map(called).collect())
    }

    fn expect(
        &mut self,
        name: &str,
        before: &BTreeMap<String, u64>,
        requests: u64,
        share: f64,
    ) -> Result<(), Error> {
        let count = |calls: &BTreeMap<String, u64>| calls.get(name).copied().unwrap_or(0);
        let done = count(&self.calls()?) - count(before);
        // It sends a few more before it ends.
        if done as f64 >= requests as f64 * share && done as f64 <= requests as f64 * 1.01 {
            return Ok(());
        }
        Err(Error::new(format!(
            "of {requests} calls of redis-benchmark, {done} did their work ({name})"
        )))
    }
}

fn prefix(run: &str) -> String {
    format!("idempotency:{{0123abcd}}tenant-0042{run}")
}

/// `"test","rps","avg","min","p50","p95","p99","max"`, the times in milliseconds.
fn lap(line: &str, requests: u64) -> Option<Lap> {
    // The name of the test is its whole command line, which may hold a comma.
    let mut fields = line.rsplit(',').map(|field| field.trim_matches('"'));
    let mut number = |skip: usize| fields.nth(skip)?.parse::<f64>().ok();
    let (p99, p50) = (number(1)?, number(1)?);
    let rate = number(2)?;
    Some(Lap {
        operations: requests,
        seconds: requests as f64 / rate,
        p50_us: p50 * 1e3,
        p99_us: p99 * 1e3,
        server_s: 0.0,
    })
}

/// `cmdstat_hset:calls=3,usec=…`.
fn called(line: &str) -> Option<(String, u64)> {
    let (name, facts) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
    let calls = facts.split(',').next()?.parse().ok()?;
    Some((name.to_owned(), calls))
}

fn word(text: impl Into<String>) -> Bytes {
    Bytes::from(text.into())
}

/// `ARGV` of an acquire, as the head of the store's script tells it.
fn acquire(owner: &str) -> Vec<Bytes> {
    // Letters and digits only, since they come on a command line.
    let scheme = format!("{:08}", SCHEME.0).into_bytes();
    let micros = |ms: u64| word((ms * 1000).to_string());
    vec![
        word("acquire"),
        word(owner),
        Bytes::from([scheme, REQUEST_DIGEST.to_vec()].concat()),
        micros(LEASE_MS),
        micros(TTL_MS),
        micros(TTL_MS),
        word("0"),
        word("0"),
        // Outcomes of any size come with the answer; the store fetches large ones by a second call.
        word((1 << 20).to_string()),
        // A history without a description: its head and its tail, around the time that the script fills in.
        Bytes::from_static(b"\x01\x00\x01\x00"),
        Bytes::from_static(b"\0\0\0\0\0"),
    ]
}

/// `ARGV` of a complete.
fn complete(body: &Bytes) -> Vec<Bytes> {
    let size = outcome(body).encode().len();
    // Of the same size; the body alone has only letters and digits.
    let data = body.iter().cycle().copied().take(size).collect::<Vec<_>>();
    let digest = Sha256::digest(&data);
    let digest: String = digest.iter().take(16).map(|b| format!("{b:02x}")).collect();
    vec![
        word("complete"),
        word(OWNER),
        word("201"),
        word("1"),
        word(body.len().to_string()),
        word(digest),
        word(size.to_string()),
        Bytes::from(data),
    ]
}

fn failed(error: redis::RedisError) -> Error {
    Error::new(format!("Redis: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_programs_print() {
        let line = r#""EVALSHA a,b","40000.00","1.480","0.800","1.487","1.703","1.903","2.500""#;
        let lap = lap(line, 80_000).unwrap();
        assert!((lap.rate() - 40_000.0).abs() < 1.0, "{lap:?}");
        assert!((lap.p50_us - 1487.0).abs() < 1.0 && (lap.p99_us - 1903.0).abs() < 1.0);
        let stats = "cmdstat_hset:calls=17,usec=4,usec_per_call=2.00";
        assert_eq!(called(stats), Some(("hset".to_owned(), 17)));
        assert_eq!(called("# Commandstats"), None);
    }

    #[test]
    fn arguments_fit_on_a_command_line() {
        let body = crate::work::body(64 << 10);
        // Only a history has bytes that a command line does not carry; see `run`.
        for argument in complete(&body).iter().chain(&acquire(OTHER)[..9]) {
            assert!(argument.iter().all(|byte| byte.is_ascii_graphic()));
            assert!(argument.len() < 128 << 10);
        }
        assert_eq!(acquire(OWNER)[2].len(), 40);
        assert_eq!(acquire(OWNER)[1].len(), 16);
        assert_eq!(complete(&body)[5].len(), 32);
    }
}
