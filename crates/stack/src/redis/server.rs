//! One Redis server.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::error::Error;
use crate::process::Process;
use crate::{ports, tools};

/// A running server, on a port of 127.0.0.1 and on a Unix socket, with its append-only file on
/// and in a directory that is removed at the end.
#[derive(Debug)]
pub struct Redis {
    process: Process,
    port: u16,
    arguments: Vec<String>,
    dir: TempDir,
}

impl Redis {
    /// Starts a server. `settings` are further ones, as on its command line: `--name`, `value`;
    /// they win over our own.
    ///
    /// # Errors
    ///
    /// If it is not installed or does not start.
    pub fn start(settings: &[&str]) -> Result<Self, Error> {
        let dir = crate::stack::temp_dir()?;
        let port = ports::free();
        let mut arguments: Vec<String> = ["--bind", "127.0.0.1", "--port"].map(Into::into).into();
        arguments.push(port.to_string());
        arguments
            .extend(["--daemonize", "no", "--appendonly", "yes", "--save", ""].map(Into::into));
        for (name, value) in [("--dir", dir.path()), ("--unixsocket", &socket(dir.path()))] {
            arguments.extend([name.to_owned(), value.display().to_string()]);
        }
        arguments.extend(settings.iter().map(|setting| (*setting).to_owned()));
        let process = launch(&arguments, dir.path(), port)?;
        Ok(Self {
            process,
            port,
            arguments,
            dir,
        })
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The Unix socket.
    pub fn socket(&self) -> PathBuf {
        socket(self.dir.path())
    }

    /// Where its files are.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// As the service's `--store` names it.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again: same port, same data, what its append-only file holds.
    ///
    /// # Errors
    ///
    /// If it does not start.
    pub fn restart(&mut self) -> Result<(), Error> {
        self.process.kill();
        self.process = launch(&self.arguments, self.dir.path(), self.port)?;
        Ok(())
    }

    /// Its process, for signals and logs.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Runs a command with `redis-cli`; returns what it prints.
    ///
    /// # Errors
    ///
    /// If it cannot be run, or the server answers with an error.
    pub fn cli(&self, command: &[&str]) -> Result<String, Error> {
        match password(&self.arguments) {
            None => cli(self.port, command),
            Some(password) => {
                let login = ["--no-auth-warning", "-a", password];
                cli(self.port, &[login.as_slice(), command].concat())
            }
        }
    }
}

/// The password that it was started with.
fn password(arguments: &[String]) -> Option<&str> {
    let mut pairs = arguments.windows(2);
    let pair = pairs.find(|pair| pair.first().is_some_and(|name| name == "--requirepass"))?;
    pair.get(1).map(String::as_str)
}

fn socket(dir: &Path) -> PathBuf {
    dir.join("redis.sock")
}

fn launch(arguments: &[String], dir: &Path, port: u16) -> Result<Process, Error> {
    let mut command = Command::new(tools::redis_server()?);
    command.args(arguments);
    let mut process = Process::start("redis-server", command, dir.join("redis.log"))?;
    // A server that wants a password answers too.
    let ready = || {
        cli(port, &["PING"]).map_or_else(
            |error| error.to_string().contains("NOAUTH"),
            |answer| answer == "PONG",
        )
    };
    process.await_ready(Duration::from_secs(30), ready)?;
    Ok(process)
}

/// Runs a command with `redis-cli` against a port of 127.0.0.1.
pub(super) fn cli(port: u16, command: &[&str]) -> Result<String, Error> {
    let port = port.to_string();
    let output = Command::new("redis-cli")
        .args(["-h", "127.0.0.1", "-p", &port, "-e"])
        .args(command)
        .output()
        .map_err(|error| Error::new(format!("redis-cli: {error}")))?;
    let text = |octets: &[u8]| String::from_utf8_lossy(octets).trim_end().to_owned();
    if output.status.success() {
        Ok(text(&output.stdout))
    } else {
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        Err(Error::new(format!("redis-cli {command:?}: {out} {err}")))
    }
}
