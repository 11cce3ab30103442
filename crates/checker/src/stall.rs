//! Measures how long this machine stands still by itself: a busy neighbour, a slow disk. Such times
//! excuse what only happens to those who are late; nothing in the checker depends on speed.

use std::fs::File;
use std::io::{Seek, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crate::clock::{self, Micros, MS};
use crate::history::{Event, Recorder, Stall};

/// What is longer is a stall.
const LIMIT: Micros = 300 * MS;

const PERIOD: Duration = Duration::from_millis(50);

/// Runs until it is dropped.
#[derive(Debug)]
pub struct Watch {
    stopped: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Watch {
    /// Begins to measure; `file` is on the disk that matters.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub fn start(file: &Path, recorder: &Recorder) -> std::io::Result<Self> {
        let mut file = File::create(file)?;
        let stopped = Arc::new(AtomicBool::new(false));
        let cpu = watch("cpu", &stopped, recorder, || {});
        let disk = watch("disk", &stopped, recorder, move || {
            // What fails here fails the parts that keep data there, too, and they say why.
            let _ = file
                .rewind()
                .and_then(|()| file.write_all(b"x"))
                .and_then(|()| file.sync_data());
        });
        Ok(Self {
            stopped,
            threads: vec![cpu, disk],
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

fn watch(
    what: &'static str,
    stopped: &Arc<AtomicBool>,
    recorder: &Recorder,
    mut work: impl FnMut() + Send + 'static,
) -> JoinHandle<()> {
    let (stopped, recorder) = (stopped.clone(), recorder.clone());
    std::thread::spawn(move || {
        while !stopped.load(Ordering::Relaxed) {
            let from = clock::now();
            std::thread::sleep(PERIOD);
            work();
            let to = clock::now();
            if to - from > LIMIT {
                let what = what.to_owned();
                recorder.record(Event::Stall(Stall { from, to, what }));
            }
        }
    })
}
