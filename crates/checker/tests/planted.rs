//! The checker is checked: each planted bug is caught in a short run, and the same run without a
//! bug is clean.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use idempotency_checker::clock::MS;
use idempotency_checker::history::{FaultKind, Target};
use idempotency_checker::model::{Law, Verdict};
use idempotency_checker::nemesis::Plan;
use idempotency_checker::report;
use idempotency_checker::rig::Store;
use idempotency_checker::run::{run, Options};

/// A short run of one Envoy and one service, without faults.
fn short(seed: u64) -> Options {
    Options {
        gateways: 1,
        clients: 60,
        lease_ms: 3_000,
        nemesis: Plan::Nothing,
        orders: false,
        ..Options::new(Store::Embedded, seed, Duration::from_secs(5))
    }
}

fn with_bug(bug: &str, options: Options) -> Options {
    let program = env!("CARGO_BIN_EXE_faulty-idempotencyd");
    Options {
        service_program: Some(PathBuf::from(program)),
        service_args: vec!["--bug".to_owned(), bug.to_owned()],
        ..options
    }
}

/// Three runs at a time: more would only make each other wait.
static TURNS: [Mutex<()>; 3] = [const { Mutex::new(()) }; 3];

fn verdict(options: &Options) -> Verdict {
    let turn = usize::try_from(options.seed).unwrap_or(0) % TURNS.len();
    let _turn = TURNS[turn].lock().unwrap_or_else(PoisonError::into_inner);
    let dir = tempfile::tempdir().expect("a temporary directory");
    match run(options, dir.path()) {
        Ok(verdict) => verdict,
        Err(error) => panic!("{error}"),
    }
}

/// Runs with a bug and asserts that one of these promises is seen broken. On a machine that is
/// slow enough a short run may have an excuse for everything; then the next seed has its turn.
fn caught(bug: &str, options: Options, laws: &[Law]) {
    let mut last = None;
    for more in 0..5 {
        let seed = options.seed + 99 * more;
        let verdict = verdict(&with_bug(
            bug,
            Options {
                seed,
                ..options.clone()
            },
        ));
        if verdict.violations.iter().any(|v| laws.contains(&v.law)) {
            return;
        }
        last = Some(verdict);
    }
    let report = last.map(|verdict| report::text(&verdict));
    panic!("{bug} was not caught:\n{}", report.unwrap_or_default());
}

/// Acquires that the service does not answer in time are taken back.
fn paused(seed: u64) -> Options {
    Options {
        nemesis: Plan::Only {
            target: Target::Service(0),
            kind: FaultKind::Pause,
            lasts: 900 * MS,
        },
        ..short(seed)
    }
}

/// Nobody settles what an Envoy that died has begun.
fn killed(seed: u64) -> Options {
    Options {
        nemesis: Plan::Only {
            target: Target::Gateway(0),
            kind: FaultKind::Kill,
            lasts: 50 * MS,
        },
        duration: Duration::from_secs(10),
        lease_ms: 2_000,
        ..short(seed)
    }
}

#[test]
fn without_a_bug_nothing_is_found() {
    for options in [short(1), paused(2), killed(4)] {
        let verdict = verdict(&with_bug("none", options));
        assert_eq!(verdict.violations, [], "{}", report::text(&verdict));
        assert!(verdict.executions > 50 && verdict.repeated > 0);
    }
}

#[test]
fn no_owner_check() {
    caught("no-owner-check", paused(2), &[Law::AtMostOnce]);
}

#[test]
fn release_on_disconnect() {
    caught("release-on-disconnect", short(3), &[Law::AtMostOnce]);
}

#[test]
fn executing_expires_into_absence() {
    caught("expires-into-absence", killed(4), &[Law::AtMostOnce]);
}

#[test]
fn a_grant_to_a_waiter_that_left() {
    let options = Options {
        only: vec!["/inline-wait".to_owned(), "/detached-wait".to_owned()],
        ..short(5)
    };
    caught(
        "grant-to-left-waiter",
        options,
        &[Law::Locked, Law::Unknown, Law::FinalState],
    );
}

#[test]
fn the_lock_freed_before_the_answer_is_stored() {
    caught("freed-before-stored", short(6), &[Law::AtMostOnce]);
}

#[test]
fn the_fingerprint_ignored() {
    caught(
        "fingerprint-ignored",
        short(7),
        &[Law::OwnAnswer, Law::Mismatch],
    );
}

#[test]
fn a_replay_with_changed_bytes() {
    caught("replay-changed", short(8), &[Law::SameBytes]);
}

#[test]
fn the_tenant_ignored() {
    caught("tenant-ignored", short(9), &[Law::OwnAnswer, Law::Mismatch]);
}

#[test]
fn a_fence_that_does_not_grow() {
    caught("fence-stuck", short(10), &[Law::Fences]);
}

#[test]
fn a_complete_that_is_acknowledged_and_not_stored() {
    caught(
        "acknowledged-not-stored",
        short(11),
        &[Law::NoContradiction, Law::Unknown, Law::Locked],
    );
}

#[test]
fn a_record_that_is_forgotten() {
    caught("stored-and-forgotten", short(12), &[Law::AtMostOnce]);
}

#[test]
fn an_unknown_outcome_that_is_told_to_be_in_flight() {
    caught("unknown-in-flight", short(13), &[Law::Locked]);
}
