//! A second server that follows the first one, and takes its place.

use std::process::Command;

use super::{finish, Postgres, PostgresOptions};
use crate::error::Error;

impl Postgres {
    /// Starts a hot standby of this server: a copy of its data that follows it by streaming
    /// replication. `name` is what `synchronous_standby_names` calls it. It takes over the
    /// primary's data, not its settings.
    ///
    /// # Errors
    ///
    /// If the copy cannot be made, or the standby does not start.
    pub fn standby(&self, name: &str, mut options: PostgresOptions) -> Result<Self, Error> {
        options.settings.push(format!(
            "primary_conninfo = 'host=127.0.0.1 port={} user=postgres application_name={name}'",
            self.port
        ));
        let port = self.port.to_string();
        Self::start_on(options, |bin, data, user| {
            let mut command = Command::new(bin.join("pg_basebackup"));
            command
                .args(["--host", "127.0.0.1", "--port", &port, "--username"])
                .args(["postgres", "--checkpoint", "fast", "--no-sync", "--pgdata"])
                .arg(data)
                .current_dir(data);
            finish(command, user)?;
            super::write(&data.join("standby.signal"), "", user)
        })
    }

    /// Changes a setting of the running server.
    ///
    /// # Panics
    ///
    /// If the server refuses it.
    pub fn set(&self, name: &str, value: &str) {
        self.sql("postgres", &format!("ALTER SYSTEM SET {name} = '{value}'"));
        self.sql("postgres", "SELECT pg_reload_conf()");
    }

    /// Makes the standby a primary; returns when it takes writes.
    ///
    /// # Panics
    ///
    /// If it is none, or does not become one within a minute.
    pub fn promote(&self) {
        assert_eq!(self.sql("postgres", "SELECT pg_promote(true, 60)"), "t");
    }

    /// Ends all of its processes with `kill -9`: nothing is written any more, nobody is told.
    pub fn kill(&mut self) {
        self.process.kill_all();
    }

    /// Stops all of its processes in their tracks, as a machine does that stands still: its
    /// sockets are open, and nobody answers.
    pub fn pause(&mut self) {
        self.process.pause_all();
    }

    /// Lets it go on after [`Self::pause`].
    pub fn resume(&mut self) {
        self.process.resume_all();
    }
}
