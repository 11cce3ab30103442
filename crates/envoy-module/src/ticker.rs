//! The thread that lets the filters look at the clock. Envoy gives filters no timer on workers; but a hook can be
//! asked for from any thread.

use crate::home::{lock, Home};
use std::sync::{Arc, Mutex, Once, Weak};
use std::time::Duration;

/// As often as in WebAssembly (`idempotency_filter::profile::Profile::tick_ms`).
const PERIOD: Duration = Duration::from_millis(50);

static HOMES: Mutex<Vec<Weak<Home>>> = Mutex::new(Vec::new());

/// Has this configuration's workers look at the clock, until it is no more. False: there is no thread for it.
pub fn watch(home: &Arc<Home>) -> bool {
    static START: Once = Once::new();
    static STARTED: Mutex<bool> = Mutex::new(false);
    lock(&HOMES).push(Arc::downgrade(home));
    START.call_once(|| {
        let thread = std::thread::Builder::new().name("idempotency".to_owned());
        *lock(&STARTED) = thread.spawn(run).is_ok();
    });
    *lock(&STARTED)
}

fn run() {
    loop {
        std::thread::sleep(PERIOD);
        let homes: Vec<_> = {
            let mut homes = lock(&HOMES);
            homes.retain(|home| home.upgrade().is_some_and(|home| home.is_alive()));
            homes.iter().filter_map(Weak::upgrade).collect()
        };
        for unit in homes.iter().flat_map(|home| home.units()) {
            unit.tick();
        }
    }
}
