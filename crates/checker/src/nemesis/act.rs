//! Doing what is planned, and undoing it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use idempotency_stack::Error;

use super::plan::{Episode, Plan, Planned, Topology};
use crate::clock;
use crate::history::{Event, FaultBegins, Recorder};
use crate::rig::Rig;

/// How long healing may take: a part starts only when those that it needs are there.
const PATIENCE: Duration = Duration::from_secs(120);

/// Does what is planned until `stop` is closed; everything is healed then.
///
/// # Errors
///
/// If a part does not start again.
pub fn run(
    rig: &Rig,
    plan: &Plan,
    topology: &Topology,
    seed: u64,
    recorder: &Recorder,
    stop: &Receiver<()>,
) -> Result<(), Error> {
    let fault = AtomicU64::new(1);
    for number in 0.. {
        let Some(Episode { quiet, faults }) = plan.episode(topology, seed, number) else {
            break;
        };
        if stop.recv_timeout(Duration::from_micros(quiet)) != Err(RecvTimeoutError::Timeout) {
            break;
        }
        std::thread::scope(|scope| {
            let next = || fault.fetch_add(1, Ordering::Relaxed);
            let acts: Vec<_> = faults
                .into_iter()
                .map(|planned| {
                    let fault = next();
                    scope.spawn(move || act(rig, planned, fault, recorder))
                })
                .collect();
            acts.into_iter().try_for_each(|act| match act.join() {
                Ok(done) => done,
                Err(panic) => std::panic::resume_unwind(panic),
            })
        })?;
    }
    Ok(())
}

fn act(rig: &Rig, planned: Planned, fault: u64, recorder: &Recorder) -> Result<(), Error> {
    // These sleeps are the fault itself, not a wait for something.
    std::thread::sleep(Duration::from_micros(planned.after));
    recorder.record(Event::FaultBegins(FaultBegins {
        fault,
        at: clock::now(),
        target: planned.target,
        kind: planned.kind,
    }));
    rig.inject(planned.target, planned.kind);
    std::thread::sleep(Duration::from_micros(planned.lasts));
    let begin = Instant::now();
    loop {
        match rig.heal(planned.target, planned.kind) {
            Ok(()) => break,
            // What it needs is broken too, and will be healed.
            Err(_) if begin.elapsed() < PATIENCE => {}
            Err(error) => return Err(error),
        }
    }
    let at = clock::now();
    recorder.record(Event::FaultEnds { fault, at });
    Ok(())
}
