//! The service that one would write by hand, as a process of its own with a Redis of its own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use idempotency_stack::{Error, Process, Redis};
use tempfile::TempDir;

/// It runs until it is dropped.
#[derive(Debug)]
pub struct ByHand {
    process: Process,
    redis: Redis,
    socket: PathBuf,
    _dir: TempDir,
}

impl ByHand {
    /// Starts it, and its Redis.
    ///
    /// # Errors
    ///
    /// If it is not built, or does not start.
    pub fn start() -> Result<Self, Error> {
        let failed = |error: std::io::Error| Error::new(format!("by-hand: {error}"));
        let redis = Redis::start(&[])?;
        let dir = tempfile::tempdir().map_err(failed)?;
        let socket = dir.path().join("by-hand.sock");
        let program = std::env::current_exe().map_err(failed)?;
        let mut command = Command::new(program.with_file_name("by-hand"));
        command.arg(&socket).arg(redis.url());
        let log = dir.path().join("by-hand.log");
        let mut process = Process::start("by-hand", command, log)?;
        process.await_ready(Duration::from_secs(10), || socket.exists())?;
        Ok(Self {
            process,
            redis,
            socket,
            _dir: dir,
        })
    }

    /// Where the gateway asks it.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// The process of its Redis.
    pub fn redis_id(&mut self) -> u32 {
        self.redis.process().id()
    }
}
