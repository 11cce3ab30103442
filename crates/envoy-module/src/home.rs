//! A configuration of the filter, as Envoy has loaded it: its text, its metrics, its workers, and the callouts that
//! the main thread has sent for them.

use crate::abi::Object;
use crate::envoy::{self, Kind, MainBell, Refused};
use crate::host::Answer;
use crate::unit::Unit;
use bytes::Bytes;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Locks, also what a panic has left locked: nothing here is left half done.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The metrics, by name. Envoy defines metrics only while it loads a configuration, so all that the filter could
/// ask for are defined then, and found by their names later.
#[derive(Debug, Default)]
struct Metrics {
    /// Kinds and Envoy's numbers, by our numbers.
    all: Vec<(Kind, usize)>,
    names: HashMap<String, u32>,
}

/// One configuration.
#[derive(Debug)]
pub struct Home {
    envoy: Object,
    /// The filter's configuration.
    pub text: Bytes,
    /// Calls the main thread, until Envoy destroys the configuration: its event loop may be next.
    bell: Mutex<Option<MainBell>>,
    metrics: Mutex<Metrics>,
    /// Envoy still has it.
    alive: AtomicBool,
    units: Mutex<Vec<Arc<Unit>>>,
    /// Callouts of the main thread, by Envoy's number: whose they are.
    out: Mutex<HashMap<u64, (Arc<Unit>, u32)>>,
}

impl Home {
    /// A configuration is loaded, on the main thread.
    pub fn new(envoy: Object, text: Bytes) -> Option<Arc<Home>> {
        Some(Arc::new(Home {
            envoy,
            text,
            bell: Mutex::new(Some(MainBell::new(envoy)?)),
            metrics: Mutex::default(),
            alive: AtomicBool::new(true),
            units: Mutex::default(),
            out: Mutex::default(),
        }))
    }

    /// Whether Envoy still has it.
    pub fn is_alive(&self) -> bool {
        self.alive.load(Ordering::Acquire)
    }

    /// Asks for a turn of the main thread ([`Home::turn`]), from any thread.
    pub fn call_main(&self) {
        if let Some(bell) = &*lock(&self.bell) {
            bell.ring();
        }
    }

    /// A worker of it.
    pub fn add(&self, unit: &Arc<Unit>) {
        lock(&self.units).push(Arc::clone(unit));
    }

    /// Its workers.
    pub fn units(&self) -> Vec<Arc<Unit>> {
        lock(&self.units).clone()
    }

    /// Envoy destroys it: nothing may be asked of it any more.
    pub fn end(&self) -> Vec<Arc<Unit>> {
        self.alive.store(false, Ordering::Release);
        drop(lock(&self.bell).take());
        lock(&self.out).clear();
        std::mem::take(&mut *lock(&self.units))
    }

    /// Our number for a metric. The first time that its name is asked for must be while the configuration is
    /// loaded.
    pub fn metric(&self, kind: Kind, name: &str) -> Option<u32> {
        let mut metrics = lock(&self.metrics);
        if let Some(known) = metrics.names.get(name) {
            return Some(*known);
        }
        let id = envoy::define_metric(self.envoy, kind, name).ok()?;
        let ours = u32::try_from(metrics.all.len()).ok()?;
        metrics.all.push((kind, id));
        metrics.names.insert(name.to_owned(), ours);
        Some(ours)
    }

    fn known(&self, id: u32) -> Result<(Kind, usize), Refused> {
        if !self.is_alive() {
            return Err(Refused);
        }
        let metrics = lock(&self.metrics);
        let place = usize::try_from(id).map_err(|_| Refused)?;
        metrics.all.get(place).copied().ok_or(Refused)
    }

    /// Adds to a counter or a gauge.
    pub fn add_to_metric(&self, id: u32, by: i64) -> Result<(), Refused> {
        let (kind, id) = self.known(id)?;
        envoy::add_to_metric(self.envoy, kind, id, by)
    }

    /// Sets a gauge, or adds a value to a distribution.
    pub fn record_metric(&self, id: u32, value: u64) -> Result<(), Refused> {
        let (kind, id) = self.known(id)?;
        envoy::record_metric(self.envoy, kind, id, value)
    }

    /// Sends a callout for a worker, on the main thread. False: it could not be sent.
    pub fn call(&self, unit: &Arc<Unit>, token: u32, message: &envoy::Message, ms: u64) -> bool {
        if !self.is_alive() {
            return false;
        }
        match envoy::callout(envoy::Caller::Config(self.envoy), message, ms) {
            Ok(id) => {
                lock(&self.out).insert(id, (Arc::clone(unit), token));
                true
            }
            Err(Refused) => false,
        }
    }

    /// The answer of such a callout has come.
    pub fn answered(&self, id: u64, answer: Option<Answer>) {
        let whose = lock(&self.out).remove(&id);
        if let Some((unit, token)) = whose {
            unit.answered_by_main(token, answer);
        }
    }

    /// The main thread was called.
    pub fn turn(&self) {
        for unit in self.units() {
            unit.turn_on_main();
        }
    }
}
