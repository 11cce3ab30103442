//! Encryption in a run: the keys are rotated in the middle of the storm, one is lost for a while, and records are
//! rewrapped.
//!
//! The procedure is that of `docs/encryption.md`: a step begins when every process has taken the one before.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use idempotency_stack::Error;
use idempotency_store::sealed::Keys;

use crate::clock;
use crate::history::{Event, FaultBegins, FaultKind, Recorder, Target};
use crate::rig::Rig;

/// Between two steps.
const STEP: Duration = Duration::from_secs(3);
/// How long a key is lost.
const LOST: Duration = Duration::from_secs(4);
/// The numbers of the losses; those of other faults count from 1.
const FIRST_LOSS: u64 = 1 << 40;

/// The file of keys of a run.
#[derive(Debug)]
pub struct KeyFile {
    path: PathBuf,
    index: String,
}

impl KeyFile {
    /// With one key.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn create(dir: &Path) -> Result<(Self, String), Error> {
        let file = Self {
            path: dir.join("keys"),
            index: line("index")?,
        };
        let first = line("k0")?;
        file.write(&[&first])?;
        Ok((file, first))
    }

    /// Where it is.
    pub fn path(dir: &Path) -> PathBuf {
        dir.join("keys")
    }

    fn write(&self, keys: &[&String]) -> Result<(), Error> {
        let failed = |error: std::io::Error| Error::new(format!("keys: {error}"));
        let keys: String = keys.iter().map(|key| key.as_str()).collect();
        // Nobody reads half of it.
        let new = self.path.with_extension("new");
        std::fs::write(&new, self.index.clone() + &keys).map_err(failed)?;
        std::fs::rename(&new, &self.path).map_err(failed)
    }
}

fn line(name: &str) -> Result<String, Error> {
    Keys::line(name).map_err(|error| Error::new(error.to_string()))
}

/// What was done, for the report.
#[derive(Debug, Default, Clone, Copy)]
pub struct Turned {
    /// Keys that became the first.
    pub rotations: u32,
    /// Passes of a rewrap that ended.
    pub rewraps: u32,
    /// Keys that were removed after such a pass.
    pub removed: u32,
    /// How often a key was lost.
    pub losses: u32,
}

/// Turns the keys until it is told to stop.
///
/// # Errors
///
/// If the file cannot be written.
pub fn turn(
    file: &KeyFile,
    first: String,
    rig: &Rig,
    recorder: &Recorder,
    stop: &AtomicBool,
) -> Result<Turned, Error> {
    let mut turned = Turned::default();
    let mut keys = vec![first];
    for number in 1.. {
        // These sleeps are the time between steps.
        if !pause(STEP, stop) {
            break;
        }
        let name = format!("k{number}");
        let new = line(&name)?;
        // 1: below the others, everywhere.
        let mut all: Vec<&String> = keys.iter().collect();
        all.push(&new);
        file.write(&all)?;
        if !rig.all_have(&[&name], &[], stop) {
            break;
        }
        // 2: the first.
        keys.insert(0, new);
        file.write(&keys.iter().collect::<Vec<_>>())?;
        turned.rotations += 1;
        if !pause(STEP, stop) {
            break;
        }
        // A key is lost, and comes back.
        if number % 2 == 1 {
            let fault = FIRST_LOSS + u64::from(turned.losses);
            recorder.record(Event::FaultBegins(FaultBegins {
                fault,
                at: clock::now(),
                target: Target::Keys,
                kind: FaultKind::Lose,
            }));
            file.write(&keys.iter().take(1).collect::<Vec<_>>())?;
            turned.losses += 1;
            pause(LOST, stop);
            file.write(&keys.iter().collect::<Vec<_>>())?;
            let old: Vec<String> = names(&keys);
            // To the end: nobody may be without it when the run is judged.
            rig.all_have(
                &old.iter().collect::<Vec<_>>(),
                &[],
                &AtomicBool::new(false),
            );
            let at = clock::now();
            recorder.record(Event::FaultEnds { fault, at });
        }
        // 3: rewrapped, with everybody sealing by the first.
        if !rig.all_have(&[], &[&name], stop) {
            break;
        }
        let ended = rig.rewrap(stop);
        turned.rewraps += u32::from(ended.is_some());
        // 4: the one before the last is not needed. Who was stopped in the middle of an operation may still write
        // something under the last.
        if ended == Some(0) && keys.len() > 2 {
            turned.removed += 1;
            keys.truncate(2);
            file.write(&keys.iter().collect::<Vec<_>>())?;
        }
    }
    Ok(turned)
}

fn names(keys: &[String]) -> Vec<String> {
    let name = |key: &String| key.split_whitespace().next().map(str::to_owned);
    keys.iter().filter_map(name).collect()
}

/// False: it is over.
fn pause(time: Duration, stop: &AtomicBool) -> bool {
    let begun = Instant::now();
    while begun.elapsed() < time {
        if stop.load(Ordering::Relaxed) {
            return false;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    !stop.load(Ordering::Relaxed)
}
