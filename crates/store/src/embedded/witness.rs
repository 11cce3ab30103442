//! A note beside the engine's files of how far the store had come.
//!
//! The engine takes a journal that cannot be read for one that was torn by a crash, and goes on
//! without what followed. For a torn tail, which nobody was told of, that is right; after damage
//! it would mean that keys which were executed are free again. The witness tells the two apart:
//! the engine's own [`Head`] must never be older. It is written at most once a second, because it
//! costs an fsync of its own, so damage to the writes of the last second may go unnoticed.

use super::engine::Head;
use super::resync;
use crate::clock::Micros;
use crate::store::StoreError;
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const FILE: &str = "witness";

const PERIOD: Duration = Duration::from_secs(1);

pub(super) struct Witness {
    dir: PathBuf,
    written: Option<Instant>,
}

impl Witness {
    pub fn new(dir: &Path) -> Witness {
        Witness {
            dir: dir.to_owned(),
            written: None,
        }
    }

    /// Compares what the engine found with what the witness knows.
    ///
    /// # Errors
    ///
    /// Acknowledged writes are missing, or the witness cannot be read.
    pub fn check(&self, head: &Head) -> Result<(), StoreError> {
        let place = self.dir.join(FILE);
        let failed = |why: String| StoreError::Permanent(format!("{}: {why}", place.display()));
        let text = match std::fs::read_to_string(&place) {
            Ok(text) => text,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(failed(e.to_string())),
        };
        let known = parse(&text).ok_or_else(|| failed("damaged".to_owned()))?;
        if head.last_seen < known {
            return Err(failed(format!(
                "writes are missing: the data ends at store time {}, but the store had come to \
                 {known}; restore the directory, or remove this file to accept the loss",
                head.last_seen
            )));
        }
        Ok(())
    }

    /// Notes that everything up to `head` is durable, unless that was done a moment ago.
    pub fn note(&mut self, head: &Head) {
        if self.written.is_none_or(|at| at.elapsed() >= PERIOD) {
            self.note_now(head);
        }
    }

    /// Notes that everything up to `head` is durable.
    pub fn note_now(&mut self, head: &Head) {
        // One that cannot be written stays the older one, which is true as well.
        let _ = self.write(head);
        self.written = Some(Instant::now());
    }

    /// Notes that nothing will be written any more, and everything is synced.
    pub fn note_clean_end(&self) -> std::io::Result<()> {
        resync::note_clean_end(&self.dir)
    }

    fn write(&self, head: &Head) -> std::io::Result<()> {
        let new = self.dir.join("witness.new");
        let mut file = File::create(&new)?;
        file.write_all(format!("1 {} {}\n", head.last_seen, !head.last_seen).as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&new, self.dir.join(FILE))?;
        File::open(&self.dir)?.sync_all()
    }
}

/// Format, time, and the time's complement, so that damage is noticed.
fn parse(text: &str) -> Option<Micros> {
    let mut words = text.split_ascii_whitespace();
    if words.next()? != "1" {
        return None;
    }
    let time: Micros = words.next()?.parse().ok()?;
    let check: Micros = words.next()?.parse().ok()?;
    (check == !time && words.next().is_none()).then_some(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_older_head_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let head = |last_seen| Head {
            last_seen,
            ..Head::default()
        };
        let mut witness = Witness::new(dir.path());
        witness.check(&head(0)).unwrap();
        witness.note(&head(5));
        witness.check(&head(5)).unwrap();
        witness.check(&head(6)).unwrap();
        assert!(witness
            .check(&head(4))
            .unwrap_err()
            .to_string()
            .contains("writes are missing"));
        // Not more than once a second, unless it must be.
        witness.note(&head(7));
        witness.check(&head(5)).unwrap();
        witness.note_now(&head(7));
        witness.check(&head(5)).unwrap_err();
        std::fs::write(dir.path().join(FILE), "1 7 8").unwrap();
        assert!(witness
            .check(&head(9))
            .unwrap_err()
            .to_string()
            .contains("damaged"));
    }
}
