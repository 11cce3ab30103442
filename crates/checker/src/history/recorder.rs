//! Writes the history while it happens.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::mpsc::{channel, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use super::Event;

/// Takes events from every thread; one thread writes them to a file.
#[derive(Debug, Clone)]
pub struct Recorder {
    sender: Sender<Event>,
    writer: Arc<Writer>,
}

#[derive(Debug)]
struct Writer(Mutex<Option<JoinHandle<io::Result<()>>>>);

impl Recorder {
    /// Begins a file.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn create(path: &Path) -> io::Result<Self> {
        let mut file = BufWriter::new(File::create(path)?);
        let (sender, events) = channel::<Event>();
        let writer = std::thread::spawn(move || {
            // What has come is written as soon as nothing more waits, so that little is missing
            // after a crash.
            while let Ok(event) = events.recv() {
                let mut next = Some(event);
                while let Some(event) = next {
                    serde_json::to_writer(&mut file, &event)?;
                    file.write_all(b"\n")?;
                    next = events.try_recv().ok();
                }
                file.flush()?;
            }
            file.flush()
        });
        let writer = Arc::new(Writer(Mutex::new(Some(writer))));
        Ok(Self { sender, writer })
    }

    /// Adds an event.
    pub fn record(&self, event: Event) {
        // Without the writer `finish` says what happened to it.
        let _ = self.sender.send(event);
    }

    /// Waits until everything is written. All clones must be gone by then.
    ///
    /// # Errors
    ///
    /// If it could not be written.
    pub fn finish(self) -> io::Result<()> {
        let Self { sender, writer } = self;
        drop(sender);
        let mut slot = writer.0.lock().unwrap_or_else(PoisonError::into_inner);
        match slot.take().map(JoinHandle::join) {
            Some(Ok(written)) => written,
            Some(Err(_)) => Err(io::Error::other("the writer of the history panicked")),
            None => Ok(()),
        }
    }
}
