//! Measures how long this machine stands still by itself: a busy neighbour, a slow disk. Such times
//! excuse what only happens to those who are late; nothing in the checker depends on speed.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{Seek, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crate::clock::{self, Micros, MS};
use crate::history::{Event, Recorder, Stall, Target};

/// A sleep of [`PERIOD`], or a write to the disk after it, that takes longer is a stall.
const LIMIT: Micros = 300 * MS;

const PERIOD: Duration = Duration::from_millis(50);

/// How often the parts are looked at.
const LOOK: Duration = Duration::from_millis(200);

/// A thread that could run and waited for a processor for so long since the last look.
const WAITED: Micros = 80 * MS;

/// Runs until it is dropped.
#[derive(Debug)]
pub struct Watch {
    stopped: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

/// A part of the system, and its processes. `None`: what all ways lead through.
pub type Part = (Option<Target>, Vec<i32>);

impl Watch {
    /// Begins to measure; `file` is on the disk that matters, `parts` tells what runs.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub fn start(
        file: &Path,
        parts: impl Fn() -> Vec<Part> + Send + 'static,
        recorder: &Recorder,
    ) -> std::io::Result<Self> {
        let mut file = File::create(file)?;
        let stopped = Arc::new(AtomicBool::new(false));
        let here = every(PERIOD, &stopped, recorder, |from, to| {
            everything(to - from > LIMIT)
        });
        let disk = every(PERIOD, &stopped, recorder, move |from, _| {
            // What fails here fails the parts that keep data there, too, and they say why.
            let _ = file
                .rewind()
                .and_then(|()| file.write_all(b"x"))
                .and_then(|()| file.sync_data());
            everything(clock::now() - from > LIMIT)
        });
        let mut waits = Waits::default();
        let parts = every(LOOK, &stopped, recorder, move |_, _| waits.look(&parts()));
        Ok(Self {
            stopped,
            threads: vec![here, disk, parts],
        })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// What had to wait, if the machine or its disk stood still.
fn everything(late: bool) -> Vec<Option<Target>> {
    late.then_some(None).into_iter().collect()
}

/// Looks again and again; what it names has stood still since the last look.
fn every(
    period: Duration,
    stopped: &Arc<AtomicBool>,
    recorder: &Recorder,
    mut look: impl FnMut(Micros, Micros) -> Vec<Option<Target>> + Send + 'static,
) -> JoinHandle<()> {
    let (stopped, recorder) = (stopped.clone(), recorder.clone());
    std::thread::spawn(move || {
        let mut from = clock::now();
        while !stopped.load(Ordering::Relaxed) {
            std::thread::sleep(period);
            let late = look(from, clock::now());
            let to = clock::now();
            for part in late {
                recorder.record(Event::Stall(Stall { from, to, part }));
            }
            from = to;
        }
    })
}

/// How long threads have waited for a processor, as the kernel counts it.
#[derive(Debug, Default)]
struct Waits(HashMap<(i32, String), Micros>);

impl Waits {
    /// The parts of which a thread had to wait since the last look.
    fn look(&mut self, parts: &[Part]) -> Vec<Option<Target>> {
        let mut now = HashMap::new();
        let mut late = BTreeSet::new();
        for (part, processes) in parts {
            for process in processes {
                for (thread, waited) in waited(*process) {
                    let thread = (*process, thread);
                    let before = self.0.get(&thread).copied().unwrap_or(waited);
                    if waited.saturating_sub(before) > WAITED {
                        late.insert(*part);
                    }
                    now.insert(thread, waited);
                }
            }
        }
        self.0 = now;
        late.into_iter().collect()
    }
}

/// The threads of a process, and how long each has waited for a processor.
fn waited(process: i32) -> Vec<(String, Micros)> {
    let threads = std::fs::read_dir(format!("/proc/{process}/task"));
    let threads = threads.into_iter().flatten().flatten();
    let waits = threads.filter_map(|thread| {
        let text = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        let nanos: u64 = text.split_whitespace().nth(1)?.parse().ok()?;
        let name = thread.file_name().to_string_lossy().into_owned();
        Some((name, nanos / 1_000))
    });
    waits.collect()
}
