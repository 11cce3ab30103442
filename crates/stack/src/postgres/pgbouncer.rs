//! PgBouncer in front of a PostgreSQL server.

use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use super::{at, give, other_user, run_as, write, Postgres};
use crate::error::Error;
use crate::ports;
use crate::process::Process;

/// A running PgBouncer in transaction mode, on a port of 127.0.0.1: a server's connection is a client's for one
/// transaction. It takes every user.
#[derive(Debug)]
pub struct PgBouncer {
    process: Process,
    port: u16,
    _dir: TempDir,
}

impl PgBouncer {
    /// In front of this server, with at most so many connections to it.
    ///
    /// # Errors
    ///
    /// If PgBouncer is not installed or does not start.
    pub fn start(server: &Postgres, connections: u16) -> Result<Self, Error> {
        let user = other_user()?;
        let dir = crate::stack::temp_dir()?;
        give(dir.path(), user)?;
        let port = ports::free();
        let settings = [
            "[databases]".to_owned(),
            format!("* = host=127.0.0.1 port={} user=postgres", server.port()),
            "[pgbouncer]".to_owned(),
            "listen_addr = 127.0.0.1".to_owned(),
            format!("listen_port = {port}"),
            "unix_socket_dir =".to_owned(),
            "auth_type = any".to_owned(),
            "pool_mode = transaction".to_owned(),
            format!("default_pool_size = {connections}"),
            "ignore_startup_parameters = extra_float_digits".to_owned(),
        ];
        let file = dir.path().join("pgbouncer.ini");
        write(&file, &(settings.join("\n") + "\n"), user)?;
        let program = ["/usr/sbin/pgbouncer", "/usr/bin/pgbouncer"];
        let program = program
            .into_iter()
            .find(|p| std::path::Path::new(p).is_file());
        let program = program
            .ok_or_else(|| Error::new("no PgBouncer found: install it (Debian: pgbouncer)"))?;
        let mut command = Command::new(program);
        command.arg(&file).current_dir(dir.path());
        run_as(&mut command, user);
        let log = dir.path().join("pgbouncer.log");
        std::fs::write(&log, "").map_err(|error| at(&log, &error))?;
        let mut process = Process::start("pgbouncer", command, log)?;
        let ready = || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok();
        process.await_ready(Duration::from_secs(30), ready)?;
        Ok(Self {
            process,
            port,
            _dir: dir,
        })
    }

    /// The URL of a database through it.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// Its process, for signals and logs.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}
