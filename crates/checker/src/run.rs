//! One run from its beginning to its verdict.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::sync::Arc;
use std::time::Duration;

use idempotency_stack::{Durability, Error};
use tokio::time::Instant;

use crate::client::{drive, Clients, Drive};
use crate::clock;
use crate::history::{self, Event, Recorder, HISTORY};
use crate::keys::{self, KeyFile};
use crate::model::{self, Verdict};
use crate::nemesis::{self, Plan, Topology};
use crate::orders::{self, Orders};
use crate::quiet;
use crate::rig::{Rig, RigOptions, Store};
use crate::stall::Watch;
use crate::workload::{Rules, Scripts};

/// What is run.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where all random choices come from.
    pub seed: u64,
    /// How long clients work and faults are injected; a run takes longer by its start, and by the
    /// time until all is quiet.
    pub duration: Duration,
    /// Where the records are.
    pub store: Store,
    /// The embedded store's durability.
    pub durability: Durability,
    /// How many Envoys; with a store that can be shared, as many services.
    pub gateways: usize,
    /// How many clients work at the same time.
    pub clients: usize,
    /// Lease of the rules, in milliseconds; the other times follow from it.
    pub lease_ms: u64,
    /// The rules that are called, by their paths; empty: all.
    pub only: Vec<String>,
    /// What goes wrong.
    pub nemesis: Plan,
    /// The order service runs, too.
    pub orders: bool,
    /// Records are encrypted, and keys are rotated, lost and found meanwhile.
    pub encrypt: bool,
    /// Another program instead of `idempotencyd`.
    pub service_program: Option<PathBuf>,
    /// Further arguments for it.
    pub service_args: Vec<String>,
}

impl Options {
    /// Everything, for so long.
    pub fn new(store: Store, seed: u64, duration: Duration) -> Self {
        Self {
            seed,
            duration,
            store,
            durability: Durability::Durable,
            gateways: 2,
            clients: 200,
            lease_ms: 5_000,
            only: Vec::new(),
            nemesis: Plan::Everything,
            orders: true,
            encrypt: false,
            service_program: None,
            service_args: Vec::new(),
        }
    }
}

/// Runs it, leaves the history and the logs in `dir`, and checks the history.
///
/// # Errors
///
/// If a part is absent or does not start (again), or if the system does not come to rest.
pub fn run(options: &Options, dir: &Path) -> Result<Verdict, Error> {
    let failed = |error: std::io::Error| Error::new(error.to_string());
    std::fs::create_dir_all(dir).map_err(failed)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(failed)?;
    record(options, dir, &runtime)?;
    // Clients that hang on nobody must not keep the verdict.
    runtime.shutdown_background();
    verdict(dir).map_err(failed)
}

/// What the files of a run say.
///
/// # Errors
///
/// If one cannot be read.
pub fn verdict(dir: &Path) -> std::io::Result<Verdict> {
    let mut verdict = model::check(&history::read(dir)?);
    let (counts, violations) = orders::verdict(dir)?;
    verdict.orders = counts;
    verdict.violations.extend(violations);
    Ok(verdict)
}

fn record(options: &Options, dir: &Path, runtime: &tokio::runtime::Runtime) -> Result<(), Error> {
    let failed = |error: std::io::Error| Error::new(error.to_string());
    let rules = Rules::with_lease(options.lease_ms);
    let keys = match options.encrypt {
        true => Some(KeyFile::create(dir)?),
        false => None,
    };
    let rig = Rig::start(
        &RigOptions {
            store: options.store,
            durability: options.durability,
            gateways: options.gateways,
            rules: rules.clone(),
            service_program: options.service_program.clone(),
            service_args: options.service_args.clone(),
            encrypt: options.encrypt,
            dir: dir.to_owned(),
        },
        runtime.handle(),
    )?;
    let rig = Arc::new(rig);
    let recorder = Recorder::create(&dir.join(HISTORY)).map_err(failed)?;
    recorder.record(Event::Run(history::Run {
        seed: options.seed,
        store: options.store.name().to_owned(),
        gateways: options.gateways,
        services: rig.services(),
        lease_ms: rules.lease_ms,
        rules: rules.rules.clone(),
        at: clock::now(),
    }));
    let watched = rig.clone();
    let parts = move || watched.parts();
    let watch = Watch::start(&dir.join("disk"), parts, &recorder).map_err(failed)?;
    let scripts = Scripts {
        seed: options.seed,
        gateways: options.gateways,
        rules,
        only: options.only.clone(),
    };
    let all = Arc::new(Drive::new(
        Clients::new(rig.gateways()),
        scripts,
        recorder.clone(),
    ));
    let shop = match options.orders {
        true => {
            let wanted = rig.orders(dir, options.lease_ms);
            Some(Orders::start(&wanted, options.seed, runtime.handle())?)
        }
        false => None,
    };
    let done = work(options, keys, &rig, runtime, &all);
    drop(shop);
    if options.orders {
        orders::note(dir, &rig.ordered()).map_err(failed)?;
    }
    let done = done.and_then(|()| quiet::settle(options.lease_ms, &rig, runtime, &all));
    drop(watch);
    recorder.record(Event::Over { at: clock::now() });
    rig.save_logs(dir);
    drop(rig);
    // All clones of the recorder go before it is finished; after a failure clients may have some.
    drop(all);
    if done.is_ok() {
        recorder.finish().map_err(failed)?;
    }
    done
}

/// Clients and nemesis, at the same time.
fn work(
    options: &Options,
    keys: Option<(KeyFile, String)>,
    rig: &Rig,
    runtime: &tokio::runtime::Runtime,
    all: &Arc<Drive>,
) -> Result<(), Error> {
    let topology = Topology {
        gateways: options.gateways,
        services: rig.services(),
        store: rig.has_store(),
        lease_ms: options.lease_ms,
    };
    let (stop, stopped) = channel::<()>();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let turner = keys.map(|(file, first)| {
            let over = &over;
            scope.spawn(move || keys::turn(&file, first, rig, &all.recorder, over))
        });
        let nemesis = scope.spawn(|| {
            let stopped = stopped;
            let (plan, seed) = (&options.nemesis, options.seed);
            nemesis::run(rig, plan, &topology, seed, &all.recorder, &stopped)
        });
        runtime.block_on(async {
            let end = Instant::now() + options.duration;
            let nemesis_ends = async {
                tokio::time::sleep_until(end).await;
                // What is broken now is mended, while the last clients still wait.
                drop(stop);
                over.store(true, Ordering::Relaxed);
            };
            tokio::join!(drive(all, options.clients, end), nemesis_ends);
        });
        let turned = turner.map(|turner| match turner.join() {
            Ok(turned) => turned,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        if let Some(turned) = turned.transpose()? {
            println!("{turned:?}");
        }
        match nemesis.join() {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}
