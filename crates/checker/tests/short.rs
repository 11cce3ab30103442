//! A short run with everything that can go wrong, on the store that the environment's `STORE`
//! names. `make check` makes longer ones.

use std::time::Duration;

use clap::ValueEnum;
use idempotency_checker::report;
use idempotency_checker::rig::Store;
use idempotency_checker::run::{run, Options};

#[test]
fn nothing_is_broken_in_a_short_run() {
    let store = std::env::var("STORE").unwrap_or_default();
    let store = match store.as_str() {
        "" => Store::Embedded,
        name => Store::from_str(name, false).expect("STORE is embedded, redis or postgres"),
    };
    let seed = fastrand::u64(..1 << 32);
    let options = Options {
        clients: 100,
        ..Options::new(store, seed, Duration::from_secs(20))
    };
    let mut dir = tempfile::Builder::new()
        .prefix(&format!("check-{}-{seed}-", store.name()))
        .tempdir()
        .expect("a temporary directory");
    let verdict = run(&options, dir.path());
    let good = verdict.as_ref().is_ok_and(|v| v.violations.is_empty());
    if !good {
        dir.disable_cleanup(true);
    }
    let where_ = dir.path().display();
    let verdict = verdict.unwrap_or_else(|error| panic!("SEED={seed}, {where_}: {error}"));
    let report = report::text(&verdict);
    assert!(
        good,
        "SEED={seed}, history and logs are in {where_}\n{report}"
    );
    // It did what it is for.
    let faults: usize = verdict.faults.values().sum();
    assert!(verdict.executions > 50 && faults > 0, "{report}");
}
