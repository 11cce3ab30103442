//! A PostgreSQL server as a child.

mod pgbouncer;
mod standby;

pub use pgbouncer::PgBouncer;

use std::os::unix::fs::{chown, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::error::Error;
use crate::process::Process;
use crate::{ports, tools};

/// How the server is started.
#[derive(Debug, Clone, Default)]
pub struct PostgresOptions {
    /// `None` takes a free one.
    pub port: Option<u16>,
    /// Where its files are; `None`: a temporary directory, removed at the end. One that has
    /// a database already is used as it is.
    pub data_dir: Option<PathBuf>,
    /// Lines of `postgresql.conf`, e.g. `max_connections = 200`.
    pub settings: Vec<String>,
    /// Lines of `pg_hba.conf` that come before "trust everybody".
    pub hba: Vec<String>,
    /// Certificate and key in PEM: the server offers TLS.
    pub tls: Option<(String, String)>,
    /// The authority of clients' certificates in PEM, for lines of `hba` that ask for one. With
    /// `tls` only.
    pub client_ca: Option<String>,
    /// A commit waits for the disk. Off, the server is faster, and a power cut loses it all.
    pub fsync: bool,
    /// Where its output goes; `None`: a temporary file.
    pub log: Option<PathBuf>,
}

/// A running server, on a port of 127.0.0.1 and on a Unix socket. Its superuser is `postgres`.
#[derive(Debug)]
pub struct Postgres {
    process: Process,
    bin: PathBuf,
    data: PathBuf,
    sockets: PathBuf,
    log: PathBuf,
    port: u16,
    user: Option<(u32, u32)>,
    _dir: TempDir,
}

impl Postgres {
    /// Makes a database cluster, starts the server and waits until it answers.
    ///
    /// # Errors
    ///
    /// If PostgreSQL is not installed or does not start.
    pub fn start(options: PostgresOptions) -> Result<Self, Error> {
        Self::start_on(options, init)
    }

    /// Starts it on what `make` puts into the data directory, if that is empty.
    fn start_on(
        options: PostgresOptions,
        make: impl FnOnce(&Path, &Path, Option<(u32, u32)>) -> Result<(), Error>,
    ) -> Result<Self, Error> {
        let bin = tools::postgres_bin()?;
        let user = other_user()?;
        let dir = crate::stack::temp_dir()?;
        give(dir.path(), user)?;
        let data = options
            .data_dir
            .clone()
            .unwrap_or_else(|| dir.path().join("data"));
        let log = options
            .log
            .clone()
            .unwrap_or_else(|| dir.path().join("postgres.log"));
        let port = options.port.unwrap_or_else(ports::free);
        let sockets = dir.path().to_owned();
        if !data.join("PG_VERSION").is_file() {
            let private = std::fs::Permissions::from_mode(0o700);
            std::fs::create_dir_all(&data)
                .and_then(|()| std::fs::set_permissions(&data, private))
                .map_err(|e| at(&data, &e))?;
            give(&data, user)?;
            make(&bin, &data, user)?;
        }
        configure(&options, &data, user)?;
        let process = launch(&bin, &data, &sockets, &log, port, user)?;
        Ok(Self {
            process,
            bin,
            data,
            sockets,
            log,
            port,
            user,
            _dir: dir,
        })
    }

    /// The server that the services of this process share; it ends with the last of them.
    ///
    /// # Errors
    ///
    /// If PostgreSQL is not installed or does not start.
    pub fn shared() -> Result<Arc<Self>, Error> {
        static SHARED: Mutex<Weak<Postgres>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(server) = shared.upgrade() {
            return Ok(server);
        }
        let server = Arc::new(Self::start(PostgresOptions {
            settings: vec!["max_connections = 500".to_owned()],
            ..PostgresOptions::default()
        })?);
        *shared = Arc::downgrade(&server);
        Ok(server)
    }

    /// A new, empty database; its URL.
    pub fn fresh_database(&self) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let name = format!("gateway{}", NEXT.fetch_add(1, Ordering::Relaxed));
        self.create_database(&name);
        self.url(&name)
    }

    /// The URL of a database over TCP.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// The URL of a database over the Unix socket.
    pub fn socket_url(&self, database: &str) -> String {
        let path = self.sockets.display().to_string().replace('/', "%2F");
        format!("postgres://postgres@{path}:{}/{database}", self.port)
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where its files are.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The directory of its socket.
    pub fn sockets(&self) -> &Path {
        &self.sockets
    }

    /// A program of the same installation, e.g. `pgbench`.
    pub fn program(&self, name: &str) -> PathBuf {
        self.bin.join(name)
    }

    /// Runs SQL with `psql`; what it prints, one row per line.
    ///
    /// # Panics
    ///
    /// If the server refuses it.
    pub fn sql(&self, database: &str, sql: &str) -> String {
        let output = Command::new(self.program("psql"))
            .args(["--no-psqlrc", "-qtAX", "-v", "ON_ERROR_STOP=1", "-c", sql])
            .arg(self.socket_url(database))
            .stdin(Stdio::null())
            .output();
        match output {
            Ok(output) if output.status.success() => {
                String::from_utf8_lossy(&output.stdout).trim().to_owned()
            }
            Ok(output) => panic!("{sql}: {}", String::from_utf8_lossy(&output.stderr)),
            Err(error) => panic!("cannot run psql: {error}"),
        }
    }

    /// An empty database with this name; one that is there already is left alone.
    ///
    /// # Panics
    ///
    /// If the server refuses it.
    pub fn create_database(&self, name: &str) {
        let there = format!("SELECT 1 FROM pg_database WHERE datname = '{name}'");
        if self.sql("postgres", &there).is_empty() {
            self.sql("postgres", &format!("CREATE DATABASE \"{name}\""));
        }
    }

    /// Ends it at once, as a crash does: nothing is written any more, the sessions are cut off.
    pub fn crash(&mut self) {
        self.end(Signal::QUIT);
    }

    /// Ends it in good order, cutting off the sessions.
    pub fn stop(&mut self) {
        self.end(Signal::INT);
    }

    fn end(&mut self, signal: Signal) {
        self.process.signal(signal);
        let process = &mut self.process;
        if !crate::until(Duration::from_secs(20), || process.exit_status().is_some()) {
            process.kill();
        }
    }

    /// Starts it again after [`Self::crash`] or [`Self::stop`]: same port, same data.
    ///
    /// # Errors
    ///
    /// If it does not start.
    pub fn start_again(&mut self) -> Result<(), Error> {
        self.process = launch(
            &self.bin,
            &self.data,
            &self.sockets,
            &self.log,
            self.port,
            self.user,
        )?;
        Ok(())
    }

    /// Its process, for logs.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}

impl Drop for Postgres {
    /// Children that stand still would not notice that their server is gone.
    fn drop(&mut self) {
        self.process.resume_all();
    }
}

fn at(path: &Path, error: &std::io::Error) -> Error {
    Error::new(format!("{}: {error}", path.display()))
}

/// The server refuses to run as root: then it runs as a user who may do nothing else.
fn other_user() -> Result<Option<(u32, u32)>, Error> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let find = |name: &str| {
        users.lines().find_map(|line| {
            let fields: Vec<_> = line.split(':').collect();
            match fields.as_slice() {
                [found, _, uid, gid, ..] if *found == name => {
                    Some((uid.parse().ok()?, gid.parse().ok()?))
                }
                _ => None,
            }
        })
    };
    let user = find("postgres").or_else(|| find("nobody"));
    user.map(Some)
        .ok_or_else(|| Error::new("PostgreSQL does not run as root: there is no user `postgres`"))
}

fn give(path: &Path, user: Option<(u32, u32)>) -> Result<(), Error> {
    let Some((uid, gid)) = user else {
        return Ok(());
    };
    chown(path, Some(uid), Some(gid)).map_err(|e| at(path, &e))
}

fn run_as(command: &mut Command, user: Option<(u32, u32)>) {
    if let Some((uid, gid)) = user {
        command.uid(uid).gid(gid);
    }
}

fn init(bin: &Path, data: &Path, user: Option<(u32, u32)>) -> Result<(), Error> {
    let mut command = Command::new(bin.join("initdb"));
    command
        .arg("-D")
        .arg(data)
        .args(["-U", "postgres", "-A", "trust", "-E", "UTF8"])
        .args(["--locale", "C", "--no-sync"])
        .current_dir(data);
    finish(command, user)
}

/// Runs a program of the installation to its end.
fn finish(mut command: Command, user: Option<(u32, u32)>) -> Result<(), Error> {
    let name = command.get_program().to_string_lossy().into_owned();
    run_as(&mut command, user);
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|e| Error::new(format!("cannot run {name}: {e}")))?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::new(format!(
        "{name} failed: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )))
}

/// Writes the files that the server reads at its start.
fn configure(
    options: &PostgresOptions,
    data: &Path,
    user: Option<(u32, u32)>,
) -> Result<(), Error> {
    let mut settings = vec![
        "listen_addresses = '127.0.0.1'".to_owned(),
        "max_connections = 100".to_owned(),
        "shared_buffers = 64MB".to_owned(),
    ];
    if !options.fsync {
        settings.push("fsync = off".to_owned());
        settings.push("full_page_writes = off".to_owned());
    }
    if let Some((certificate, key)) = &options.tls {
        settings.push("ssl = on".to_owned());
        write(&data.join("server.crt"), certificate, user)?;
        write(&data.join("server.key"), key, user)?;
        if let Some(authority) = &options.client_ca {
            settings.push("ssl_ca_file = 'client-ca.crt'".to_owned());
            write(&data.join("client-ca.crt"), authority, user)?;
        }
    }
    settings.extend(options.settings.iter().cloned());
    write(
        &data.join("postgresql.auto.conf"),
        &(settings.join("\n") + "\n"),
        user,
    )?;
    let mut hba = options.hba.clone();
    hba.push("local all all trust".to_owned());
    hba.push("host all all 127.0.0.1/32 trust".to_owned());
    hba.push("host replication all 127.0.0.1/32 trust".to_owned());
    write(&data.join("pg_hba.conf"), &(hba.join("\n") + "\n"), user)
}

fn write(path: &Path, text: &str, user: Option<(u32, u32)>) -> Result<(), Error> {
    let private = std::fs::Permissions::from_mode(0o600);
    std::fs::write(path, text)
        .and_then(|()| std::fs::set_permissions(path, private))
        .map_err(|e| at(path, &e))?;
    give(path, user)
}

fn launch(
    bin: &Path,
    data: &Path,
    sockets: &Path,
    log: &Path,
    port: u16,
    user: Option<(u32, u32)>,
) -> Result<Process, Error> {
    let mut command = Command::new(bin.join("postgres"));
    command
        .arg("-D")
        .arg(data)
        .arg("-k")
        .arg(sockets)
        .args(["-p", &port.to_string()])
        .current_dir(data);
    run_as(&mut command, user);
    let mut process = Process::start("postgres", command, log.to_owned())?;
    let ready = || {
        Command::new(bin.join("pg_isready"))
            .args(["-q", "-h", "127.0.0.1", "-p", &port.to_string()])
            .status()
            .is_ok_and(|status| status.success())
    };
    process.await_ready(Duration::from_secs(60), ready)?;
    Ok(process)
}
