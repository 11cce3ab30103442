//! The load generator: wrk, with a script of its own for every run.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use idempotency_stack::Error;
use serde::Deserialize;

const SCRIPT: &str = include_str!("wrk.lua");

/// Octets of every request body.
pub const REQUEST_BYTES: usize = 200;
/// Octets of every response body.
pub const RESPONSE_BYTES: usize = 200;
/// The status that the upstream answers and that every client must see.
pub const STATUS: u16 = 201;

/// The keys that a run sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Keys {
    /// A new one with every request; the prefix is unique to the run.
    Unique(String),
    /// These in turn: the prefix, followed by 0, 1, ….
    Cycle(String, usize),
}

/// One run of the load generator.
#[derive(Debug, Clone)]
pub struct Load {
    /// Path and query.
    pub target: String,
    /// The keys.
    pub keys: Keys,
    /// Connections that are kept busy.
    pub connections: usize,
    /// How long.
    pub duration: Duration,
}

/// What wrk saw.
#[derive(Debug, Clone, Deserialize)]
pub struct Seen {
    /// Answers.
    pub requests: u64,
    /// How long it really took.
    pub duration_us: u64,
    /// Answers with the expected status and size.
    pub expected: u64,
    /// Other answers by status.
    pub unexpected: BTreeMap<String, u64>,
    /// Connections that failed.
    pub socket_errors: u64,
    /// Requests without an answer in time.
    pub timeouts: u64,
    /// Median latency.
    pub p50_us: u64,
    /// 90th percentile of the latency.
    pub p90_us: u64,
    /// 99th percentile of the latency.
    pub p99_us: u64,
    /// The slowest answer.
    pub max_us: u64,
}

impl Load {
    /// Runs it against an address. The program must be on the core that is meant for it: wrk
    /// inherits the affinity of the calling thread.
    ///
    /// # Errors
    ///
    /// If wrk is not there or fails.
    pub fn run(&self, wrk: &Path, gateway: SocketAddr) -> Result<Seen, Error> {
        let dir = tempfile::tempdir().map_err(|error| Error::new(format!("wrk: {error}")))?;
        let (script, output) = (dir.path().join("run.lua"), dir.path().join("seen.json"));
        std::fs::write(&script, self.script(&output))
            .map_err(|error| Error::new(format!("{}: {error}", script.display())))?;
        let ran = Command::new(wrk)
            .arg("--threads=1")
            .arg(format!("--connections={}", self.connections))
            .arg(format!("--duration={}s", self.duration.as_secs().max(1)))
            .arg("--timeout=10s")
            .arg(format!("--script={}", script.display()))
            .arg(format!("http://{gateway}"))
            .output()
            .map_err(|error| {
                let hint = "is it installed? `apt-get install wrk`";
                Error::new(format!("cannot run {}: {error} ({hint})", wrk.display()))
            })?;
        let said = String::from_utf8_lossy(&ran.stderr);
        let failed = |what: String| Error::new(format!("wrk: {what}; it said: {}", said.trim()));
        if !ran.status.success() {
            return Err(failed(ran.status.to_string()));
        }
        let text = std::fs::read(&output).map_err(|error| failed(error.to_string()))?;
        serde_json::from_slice(&text).map_err(|error| failed(error.to_string()))
    }

    fn script(&self, output: &Path) -> String {
        let (prefix, unique, keys) = match &self.keys {
            Keys::Unique(prefix) => (prefix, true, 1),
            Keys::Cycle(prefix, keys) => (prefix, false, *keys),
        };
        SCRIPT
            .replace("@UNIQUE@", &unique.to_string())
            .replace("@KEYS@", &keys.to_string())
            .replace("@PREFIX@", prefix)
            .replace("@PATH@", &self.target)
            .replace("@REQUEST_BYTES@", &REQUEST_BYTES.to_string())
            .replace("@RESPONSE_BYTES@", &RESPONSE_BYTES.to_string())
            .replace("@STATUS@", &STATUS.to_string())
            .replace("@OUTPUT@", &output.display().to_string())
    }
}

impl Seen {
    /// Requests per second.
    pub fn rate(&self) -> f64 {
        self.requests as f64 * 1e6 / self.duration_us.max(1) as f64
    }

    /// Why this run does not count; `None` if every answer was the expected one.
    pub fn fault(&self) -> Option<String> {
        if self.requests == 0 {
            return Some("no answers".to_owned());
        }
        if self.expected == self.requests && self.socket_errors + self.timeouts == 0 {
            return None;
        }
        Some(format!(
            "{} of {} answers were not {STATUS} with {RESPONSE_BYTES} bytes ({:?}), \
             {} connections failed, {} requests timed out",
            self.requests.saturating_sub(self.expected),
            self.requests,
            self.unexpected,
            self.socket_errors,
            self.timeouts
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen() -> Seen {
        Seen {
            requests: 10,
            duration_us: 2_000_000,
            expected: 10,
            unexpected: BTreeMap::new(),
            socket_errors: 0,
            timeouts: 0,
            p50_us: 1,
            p90_us: 2,
            p99_us: 3,
            max_us: 4,
        }
    }

    #[test]
    fn every_mark_of_the_script_is_filled() {
        let load = Load {
            target: "/x?bytes=200".to_owned(),
            keys: Keys::Cycle("p-".to_owned(), 7),
            connections: 1,
            duration: Duration::from_secs(1),
        };
        let script = load.script(Path::new("/out.json"));
        let code: Vec<_> = script.lines().skip(1).collect();
        assert!(!code.join("\n").contains('@'), "{script}");
        assert!(script.contains("local unique = false\nlocal keys = 7\n"));
    }

    #[test]
    fn one_wrong_answer_spoils_a_run() {
        assert_eq!(seen().fault(), None);
        assert!((seen().rate() - 5.0).abs() < 1e-9);
        for spoilt in [
            Seen {
                expected: 9,
                ..seen()
            },
            Seen {
                socket_errors: 1,
                ..seen()
            },
            Seen {
                timeouts: 1,
                ..seen()
            },
            Seen {
                requests: 0,
                expected: 0,
                ..seen()
            },
        ] {
            assert!(spoilt.fault().is_some(), "{spoilt:?}");
        }
    }
}
