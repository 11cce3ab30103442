//! A file with every execution, which survives a `kill -9` of this process: a checker reads it
//! afterwards. One JSON object per line, written with one system call before the execution goes
//! on: what was executed is in the file, whatever happens to the process later.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use http::HeaderMap;
use rustix::time::{clock_gettime, ClockId};
use serde::Serialize;

/// The file, and which request headers it repeats.
#[derive(Debug)]
pub struct Journal {
    file: File,
    headers: Vec<String>,
}

/// A line of the journal. Times are microseconds of the machine's monotonic clock, which all its
/// processes share.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum Line<'a> {
    /// The whole request has been read; the execution counts from here.
    Started {
        /// Names the execution; also in the answer's `location` and body.
        id: &'a str,
        at: u64,
        path: &'a str,
        key: &'a str,
        fence: Option<&'a str>,
        attempt: Option<&'a str>,
        body_sha256: &'a str,
        headers: BTreeMap<&'a str, String>,
    },
    /// The execution is done; its answer, if it is to have one, has not left yet.
    Finished { id: &'a str, at: u64 },
}

impl Journal {
    /// Appends to a file. Of each request's headers those named here are repeated.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn open(path: &Path, headers: Vec<String>) -> io::Result<Self> {
        let file = File::options().create(true).append(true).open(path)?;
        Ok(Self { file, headers })
    }

    /// The values of the headers that this journal repeats.
    pub(crate) fn pick(&self, headers: &HeaderMap) -> BTreeMap<&str, String> {
        let pairs = self.headers.iter().filter_map(|name| {
            let value = headers.get(name)?;
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            Some((name.as_str(), value))
        });
        pairs.collect()
    }

    /// Writes a line.
    ///
    /// # Panics
    ///
    /// If it cannot be written: an execution that is not in the file must not go on.
    pub(crate) fn write(&self, line: &Line) {
        let written = serde_json::to_vec(line)
            .map_err(io::Error::from)
            .and_then(|mut octets| {
                octets.push(b'\n');
                (&self.file).write_all(&octets)
            });
        if let Err(error) = written {
            panic!("the journal cannot be written: {error}");
        }
    }
}

/// Microseconds of the machine's monotonic clock.
pub(crate) fn now_us() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    let nanos = u64::try_from(now.tv_nsec).unwrap_or_default();
    seconds * 1_000_000 + nanos / 1_000
}
