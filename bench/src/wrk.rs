//! The load generator: wrk, with a script of its own for every run.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use idempotency_stack::Error;
use serde::Deserialize;

const SCRIPT: &str = include_str!("wrk.lua");

/// Octets of a request's body and of its answer's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Name on the command line.
    pub id: &'static str,
    /// Of the request.
    pub request: usize,
    /// Of the answer.
    pub response: usize,
}

impl Size {
    /// In words.
    pub fn describe(&self) -> String {
        let octets = |n: usize| {
            if n >= 1024 {
                format!("{} KiB", n >> 10)
            } else {
                format!("{n} B")
            }
        };
        format!(
            "{} requests, {} answers",
            octets(self.request),
            octets(self.response)
        )
    }
}

/// The percentiles of the latency that are told.
pub const SHARES: [f64; 9] = [1.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.9];
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
    /// The method.
    pub method: &'static str,
    /// Path and query.
    pub target: String,
    /// Octets of the bodies.
    pub size: Size,
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
    /// Percentiles of the latency in microseconds, those of [`SHARES`]. wrk corrects them for
    /// the requests that it could not send while one took long.
    pub latency_us: Vec<u64>,
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
            .replace("@METHOD@", self.method)
            .replace("@PATH@", &self.target)
            .replace("@REQUEST_BYTES@", &self.size.request.to_string())
            .replace("@RESPONSE_BYTES@", &self.size.response.to_string())
            .replace(
                "@SHARES@",
                &SHARES.map(|share| share.to_string()).join(", "),
            )
            .replace("@STATUS@", &STATUS.to_string())
            .replace("@OUTPUT@", &output.display().to_string())
    }
}

impl Seen {
    /// Requests per second.
    pub fn rate(&self) -> f64 {
        self.requests as f64 * 1e6 / self.duration_us.max(1) as f64
    }

    /// That percentile of the latency in microseconds.
    pub fn latency(&self, share: f64) -> f64 {
        let at = SHARES.iter().position(|known| *known >= share);
        let time = at.and_then(|at| self.latency_us.get(at));
        time.map_or(0.0, |time| *time as f64)
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
            "{} of {} answers were not {STATUS} with the expected size ({:?}), \
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

    const SIZE: Size = Size {
        id: "small",
        request: 200,
        response: 200,
    };

    fn seen() -> Seen {
        Seen {
            requests: 10,
            duration_us: 2_000_000,
            expected: 10,
            unexpected: BTreeMap::new(),
            socket_errors: 0,
            timeouts: 0,
            latency_us: (1..=9).collect(),
        }
    }

    #[test]
    fn every_mark_of_the_script_is_filled() {
        let load = Load {
            method: "POST",
            target: "/x?bytes=200".to_owned(),
            size: SIZE,
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
        assert_eq!((seen().latency(50.0), seen().latency(99.0)), (4.0, 8.0));
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
