//! The program's life and deaths, and the clients that order through the gateways.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use idempotency_stack::{http, Error, Process};
use tokio::runtime::Handle;

use super::{append, key, open, Made, Told, BODY, MADE, PATH, TENANT, TOLD};
use crate::history::{FaultKind, TENANT_HEADER};
use crate::link::Link;

/// How many clients order through the gateways, and how many in the program.
const CLIENTS: u32 = 8;

/// Where everything is.
#[derive(Debug, Clone)]
pub struct OrdersOptions {
    /// Where the gateways look for the program.
    pub port: u16,
    /// The run's directory.
    pub dir: PathBuf,
    /// Where clients find the gateways.
    pub gateways: Vec<SocketAddr>,
    /// The database of the records: its server, and its name.
    pub database: Option<(SocketAddr, String)>,
    /// The service, and the gateways' token.
    pub service: (SocketAddr, String),
    /// Lease, in milliseconds.
    pub lease_ms: u64,
    /// The file of encryption keys, where records are encrypted.
    pub keys: Option<PathBuf>,
}

/// The program runs, and is killed; clients order. Dropped, all of it ends.
#[derive(Debug)]
pub struct Orders {
    stops: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Orders {
    /// Starts it.
    ///
    /// # Errors
    ///
    /// If the program is not built, or a file cannot be written.
    pub fn start(options: &OrdersOptions, seed: u64, runtime: &Handle) -> Result<Self, Error> {
        let failed = |error: std::io::Error| Error::new(format!("orders: {error}"));
        let way = match &options.database {
            Some((server, _)) => Some(Link::start(runtime, *server).map_err(failed)?),
            None => None,
        };
        let told = Arc::new(Mutex::new(open(&options.dir.join(TOLD)).map_err(failed)?));
        let stops = Arc::new(AtomicBool::new(false));
        let program = launch(options, way.as_ref())?;
        let mut threads = Vec::new();
        let (of_killer, all) = (Arc::clone(&stops), options.clone());
        threads.push(std::thread::spawn(move || {
            kills(&all, way, program, seed, &of_killer);
        }));
        for number in 0..CLIENTS {
            let (stops, told) = (Arc::clone(&stops), Arc::clone(&told));
            let gateway = options
                .gateways
                .get(number as usize % options.gateways.len().max(1));
            let Some(gateway) = gateway.copied() else {
                continue;
            };
            threads.push(std::thread::spawn(move || {
                while !stops.load(Ordering::Relaxed) {
                    order(gateway, &told);
                    std::thread::sleep(Duration::from_millis(fastrand::u64(..40)));
                }
            }));
        }
        Ok(Self { stops, threads })
    }

    /// Ends all of it, and waits until it has ended.
    pub fn stop(&mut self) {
        self.stops.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for Orders {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Notes the orders that are there. `rows`: a key and an id on each line, with a space between.
///
/// # Errors
///
/// If the file cannot be written.
pub(crate) fn note(dir: &Path, rows: &str) -> std::io::Result<()> {
    let mut file = open(&dir.join(MADE))?;
    for (key, id) in rows.lines().filter_map(|line| line.split_once(' ')) {
        let made = Made {
            key: key.to_owned(),
            id: id.to_owned(),
        };
        append(&mut file, &made)?;
    }
    Ok(())
}

/// One order through a gateway.
fn order(gateway: SocketAddr, told: &Mutex<File>) {
    let key = key(&mut fastrand::Rng::new());
    let request = http::Request::post(PATH)
        .timeout(Duration::from_secs(10))
        .header("Idempotency-Key", &key)
        .header(TENANT_HEADER, TENANT)
        .body(BODY);
    let (end, id) = match request.send(gateway) {
        Ok(answer) if answer.status == 201 => {
            let replayed = answer.header("idempotency-replayed") == Some("true");
            let end = if replayed { "replay" } else { "first" };
            (end.to_owned(), Some(answer.text()))
        }
        Ok(answer) => (answer.status.to_string(), None),
        Err(_) => ("no answer".to_owned(), None),
    };
    let line = Told {
        key,
        by: "gateway".to_owned(),
        end,
        id,
    };
    let mut file = told.lock().unwrap_or_else(PoisonError::into_inner);
    if let Err(error) = append(&mut file, &line) {
        eprintln!("orders: {error}");
    }
}

fn launch(options: &OrdersOptions, way: Option<&Link>) -> Result<Process, Error> {
    let own = std::env::current_exe().unwrap_or_default();
    let beside = own
        .ancestors()
        .skip(1)
        .take(2)
        .map(|dir| dir.join("order-service"));
    let program = beside.into_iter().find(|path| path.is_file());
    let program = program.ok_or_else(|| Error::new("`order-service` is not built"))?;
    let mut command = Command::new(program);
    command
        .args(["--port", &options.port.to_string()])
        .arg("--dir")
        .arg(&options.dir)
        .args(["--lease-ms", &options.lease_ms.to_string()])
        .args(["--clients", &CLIENTS.to_string()]);
    match (&options.database, way) {
        (Some((server, name)), Some(way)) => {
            let url = |at: SocketAddr| format!("postgres://postgres@{at}/{name}");
            command.args(["--database", &url(*server), "--way", &url(way.address())]);
            if let Some(keys) = &options.keys {
                command.arg("--encryption-keys").arg(keys);
            }
        }
        _ => {
            let (service, token) = &options.service;
            command.args(["--service", &format!("http://{service}"), "--token", token]);
        }
    }
    let log = options.dir.join("order-service.log");
    Process::start("order-service", command, log)
}

/// `kill -9`, and the program starts again; or its connections to the database are cut.
fn kills(
    options: &OrdersOptions,
    way: Option<Link>,
    mut program: Process,
    seed: u64,
    stops: &AtomicBool,
) {
    let mut rng = fastrand::Rng::with_seed(seed);
    while !stops.load(Ordering::Relaxed) {
        // These sleeps are the time between faults, and the faults themselves.
        for _ in 0..rng.u32(5..40) {
            if stops.load(Ordering::Relaxed) {
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        match &way {
            Some(way) if rng.bool() => {
                way.cut(FaultKind::Reset);
                std::thread::sleep(Duration::from_millis(rng.u64(1..300)));
                way.heal();
            }
            _ => {
                program.kill();
                match launch(options, way.as_ref()) {
                    Ok(again) => program = again,
                    Err(error) => return eprintln!("orders: {error}"),
                }
            }
        }
    }
    program.kill();
}
