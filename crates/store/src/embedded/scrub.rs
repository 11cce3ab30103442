//! Removing what was deleted from the files now, and not at some later time.
//!
//! A deleted record is in three kinds of files: the journal, until that is rotated and its writes are in tables; tables,
//! until a compaction drops it *and* nobody can read the tables from before any more; and files of large answers, which
//! the engine rewrites only when a good part of them is garbage. The engine does each in its own time. Here it is made
//! to:
//!
//! 1. The journal is filled until the engine rotates it, and every tree is flushed.
//! 2. When no reader is left from before, every tree is compacted as a whole. Sooner, a compaction would keep what that
//!    reader may still ask for.
//! 3. If there is garbage left among the large answers, every one that lives is written again as it is, and the old
//!    files go as a whole.
//! 4. The engine is made to forget the trees as they were before: it keeps their files until then.
//!
//! It is over when the files of the beginning are gone. A crash in between loses nothing: each step is the engine's own,
//! and what is written again is the same under the same key.

use super::engine::{unreadable, unwritable, Engine};
use super::lack;
use crate::store::StoreError;
use fjall::{AbstractTree, Keyspace, PersistMode};
use std::io::ErrorKind;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

/// The engine rotates its journal at the next flush above 64 MB.
const JOURNAL: usize = 64_000_000 + FILL;
const FILL: usize = 1 << 20;
/// A key that no tree has: it is shorter than a time, and no tenant's name is as long as its first two bytes say.
const FILLER: &[u8] = b"filler";
/// Large answers that are looked for at a time.
const PAGE: usize = 256;
/// How long readers from before may take: a page of a list, a large answer.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks, at first and at last.
const PAUSES: [Duration; 2] = [Duration::from_millis(5), Duration::from_secs(1)];

/// What a scrub shares with commits, and with the end of the store.
#[derive(Default)]
pub(super) struct Scrubbing {
    /// One at a time.
    at_work: Mutex<()>,
    /// Held while a large answer is written again, and by every commit: what is written is what is there.
    moving: Mutex<()>,
    stopped: AtomicBool,
}

impl Scrubbing {
    /// For a commit: no large answer is written again meanwhile.
    pub fn keep_still(&self) -> MutexGuard<'_, ()> {
        self.moving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// None begins any more, and one that is at work ends soon. False: it has not ended yet.
    pub fn stop(&self) -> bool {
        self.stopped.store(true, Ordering::SeqCst);
        !matches!(self.at_work.try_lock(), Err(TryLockError::WouldBlock))
    }

    fn go_on(&self) -> Result<(), StoreError> {
        match self.stopped.load(Ordering::SeqCst) {
            true => Err(StoreError::Transient("store is closed".into())),
            false => Ok(()),
        }
    }
}

impl Engine {
    /// Blocks, for as long as it takes to rewrite the tables.
    ///
    /// # Errors
    ///
    /// Transient where the disk has no room for two of what is rewritten, where a reader from before does not come to
    /// an end, and when the store is closed meanwhile: some of what was deleted may still be there then.
    pub fn scrub(&self) -> Result<(), StoreError> {
        self.scrub_within(PATIENCE)
    }

    pub(super) fn scrub_within(&self, patience: Duration) -> Result<(), StoreError> {
        let one = self.scrubbing.at_work.lock();
        let _one = one.unwrap_or_else(PoisonError::into_inner);
        self.scrubbing.go_on()?;
        let tables: u64 = self.trees().iter().map(|tree| index_size(tree)).sum();
        self.has_room(tables.saturating_add(2 * bytes(JOURNAL)))?;
        let journals = self.journals()?;
        self.fill_journal()?;
        self.until(patience, || {
            Ok(self.nobody_reads_older() && are_gone(&journals)?)
        })?;

        let tables = self.files("tables")?;
        let bodies = self.files("blobs")?;
        for tree in self.trees() {
            self.scrubbing.go_on()?;
            tree.major_compact().map_err(unreadable)?;
        }
        if self.bodies.fragmented_blob_bytes() > 0 {
            // The compaction before counted what is garbage; this one drops the files in which everything is.
            self.bodies.major_compact().map_err(unreadable)?;
        }
        let is_moved = self.bodies.fragmented_blob_bytes() > 0;
        if is_moved {
            self.has_room(self.bodies.disk_space().saturating_mul(2))?;
            self.write_bodies_again()?;
            self.until(patience, || Ok(self.nobody_reads_older()))?;
            for _ in 0..2 {
                self.bodies.major_compact().map_err(unreadable)?;
            }
        }
        self.until(patience, || {
            let gone = are_gone(&tables)? && (!is_moved || are_gone(&bodies)?);
            Ok(gone && self.nobody_reads_older())
        })
    }

    /// Flushes, and has the engine forget what is older, until it is done.
    fn until(
        &self,
        patience: Duration,
        done: impl Fn() -> Result<bool, StoreError>,
    ) -> Result<(), StoreError> {
        let begun = Instant::now();
        let [mut pause, longest] = PAUSES;
        loop {
            self.flush()?;
            if done()? {
                return Ok(());
            }
            if begun.elapsed() >= patience {
                let message =
                    "what was deleted is still in files: somebody reads them, or the engine \
                               has not come to it; ask again";
                return Err(StoreError::Transient(message.into()));
            }
            std::thread::sleep(pause);
            pause = longest.min(pause * 2);
        }
    }

    /// Everything that was written is in tables, and the engine has looked which older state of the trees is still read.
    fn flush(&self) -> Result<(), StoreError> {
        // A removal of what is not there: each tree has something to flush, so its tables are newer than any journal.
        for tree in self.trees() {
            tree.remove(FILLER).map_err(unwritable)?;
        }
        for tree in self.trees() {
            self.flush_tree(tree)?;
        }
        // It looks when a tree is rotated, and forgets what is older than the write before the last.
        for _ in 0..2 {
            self.head.remove(FILLER).map_err(unwritable)?;
        }
        self.flush_tree(&self.head)
    }

    fn flush_tree(&self, tree: &Keyspace) -> Result<(), StoreError> {
        tree.rotate_memtable().map_err(unwritable)?;
        while tree.sealed_memtable_count() > 0 {
            self.scrubbing.go_on()?;
            // An engine that has failed flushes nothing any more, and says so.
            let state = self.db.persist(PersistMode::Buffer);
            state.map_err(unwritable)?;
            std::thread::sleep(PAUSES[0]);
        }
        Ok(())
    }

    /// Whether the engine keeps no older state of the records, and so lets go of what was deleted. It may keep older
    /// heads: nothing is deleted from those.
    fn nobody_reads_older(&self) -> bool {
        let [kept @ .., _] = self.trees();
        kept.iter()
            .all(|tree| tree.tree.version_free_list_len() == 0)
    }

    fn fill_journal(&self) -> Result<(), StoreError> {
        let mut filler = Filler(0x9e37_79b9_7f4a_7c15);
        for _ in 0..JOURNAL.div_ceil(FILL) {
            self.scrubbing.go_on()?;
            self.head
                .insert(FILLER, filler.next())
                .map_err(unwritable)?;
        }
        self.head.remove(FILLER).map_err(unwritable)
    }

    /// Writes every large answer again, in the order of keys.
    fn write_bodies_again(&self) -> Result<(), StoreError> {
        let mut after = Bound::Unbounded;
        loop {
            let mut keys = Vec::with_capacity(PAGE);
            for guard in self.bodies.range((after, Bound::Unbounded)).take(PAGE) {
                keys.push(guard.key().map_err(unreadable)?);
            }
            let Some(last) = keys.last() else {
                return Ok(());
            };
            after = Bound::Excluded(last.clone());
            for key in keys {
                self.scrubbing.go_on()?;
                // From the disk before, so that no commit waits for that.
                let _ = self.bodies.get(&key).map_err(unreadable)?;
                let _still = self.scrubbing.keep_still();
                if let Some(body) = self.bodies.get(&key).map_err(unreadable)? {
                    self.bodies.insert(key, body).map_err(unwritable)?;
                }
            }
        }
    }

    /// Whether the disk takes this as well, and still has what operations need.
    fn has_room(&self, bytes: u64) -> Result<(), StoreError> {
        let needed = bytes.saturating_add(self.min_free_bytes);
        let free = lack::free(&self.path);
        if free < needed {
            return Err(StoreError::Transient(format!(
                "{}: {free} bytes are free on the disk, rewriting the files needs {needed}",
                self.path.display()
            )));
        }
        Ok(())
    }

    fn journals(&self) -> Result<Vec<PathBuf>, StoreError> {
        let mut found = listed(&self.path)?;
        found.retain(|path| path.extension().is_some_and(|e| e == "jnl"));
        Ok(found)
    }

    /// Those of one kind, of all trees.
    fn files(&self, kind: &str) -> Result<Vec<PathBuf>, StoreError> {
        let [kept @ .., _] = self.trees();
        let mut found = Vec::new();
        for tree in kept {
            found.extend(listed(&tree.path().join(kind))?);
        }
        Ok(found)
    }

    /// All of them, the tree of heads last.
    fn trees(&self) -> [&Keyspace; 4] {
        [&self.records, &self.bodies, &self.due, &self.head]
    }
}

/// What a compaction of the tree writes, in bytes: large answers stay where they are.
fn index_size(tree: &Keyspace) -> u64 {
    match &tree.tree {
        fjall::AnyTree::Standard(tree) => tree.disk_space(),
        fjall::AnyTree::Blob(tree) => tree.index.disk_space(),
    }
}

fn bytes(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

fn listed(dir: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(unreadable(error.into())),
    };
    let paths = entries.map(|entry| entry.map(|entry| entry.path()));
    let paths: Result<_, std::io::Error> = paths.collect();
    paths.map_err(|error| unreadable(error.into()))
}

fn are_gone(files: &[PathBuf]) -> Result<bool, StoreError> {
    for file in files {
        let is_there = file.try_exists();
        if is_there.map_err(|error| unreadable(error.into()))? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Bytes that cannot be compressed (xorshift).
struct Filler(u64);

impl Filler {
    fn next(&mut self) -> Vec<u8> {
        let mut out = Vec::with_capacity(FILL);
        while out.len() < FILL {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            out.extend_from_slice(&self.0.to_le_bytes());
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::super::EmbeddedOptions;
    use super::*;

    const LARGE: usize = 20_000;
    const COUNT: u8 = 40;
    const GONE: u8 = 7;

    /// With nothing in common, which blocks of keys leave out and compress away.
    fn name(n: u8) -> [u8; 16] {
        let factor = 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835;
        (u128::from(n) + 1).wrapping_mul(factor).to_le_bytes()
    }

    /// A tree of large answers on disk, of which one is to go; the directory first.
    fn engine() -> (tempfile::TempDir, Engine) {
        let dir = tempfile::tempdir().unwrap();
        let (engine, _) = Engine::open(&EmbeddedOptions::new(dir.path())).unwrap();
        for n in 0..COUNT {
            engine.bodies.insert(name(n), vec![n; LARGE]).unwrap();
            engine.records.insert(name(n), [n]).unwrap();
            engine.due.insert(due(n), "").unwrap();
        }
        engine.scrub_within(PATIENCE).unwrap();
        (dir, engine)
    }

    fn due(n: u8) -> Vec<u8> {
        [b"20261130".as_slice(), &name(n)].concat()
    }

    fn remove(engine: &Engine, n: u8) {
        engine.bodies.remove(name(n)).unwrap();
        engine.records.remove(name(n)).unwrap();
        engine.due.remove(due(n)).unwrap();
    }

    /// In how many files this is.
    fn found(dir: &Path, wanted: &[u8]) -> usize {
        let of_entry = |entry: std::io::Result<std::fs::DirEntry>| {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => found(&path, wanted),
                false => {
                    let bytes = std::fs::read(&path).unwrap_or_default();
                    let mut parts = bytes.windows(wanted.len());
                    usize::from(parts.any(|part| part == wanted))
                }
            }
        };
        std::fs::read_dir(dir).unwrap().map(of_entry).sum()
    }

    #[test]
    fn one_large_answer_of_many_leaves_every_tree() {
        let (dir, engine) = engine();
        assert_eq!(found(dir.path(), &name(GONE)), 4, "a blob, and tables");
        remove(&engine, GONE);
        engine.scrub_within(PATIENCE).unwrap();
        assert_eq!(found(dir.path(), &name(GONE)), 0);
        for n in (0..COUNT).filter(|n| *n != GONE) {
            let body = engine.bodies.get(name(n)).unwrap().unwrap();
            assert_eq!(&*body, vec![n; LARGE]);
        }
        assert_eq!(engine.bodies.fragmented_blob_bytes(), 0);
    }

    /// A reader from before is asked to be waited for, and what he reads is not called gone.
    #[test]
    fn a_reader_from_before_holds_it_up() {
        let (dir, engine) = engine();
        let reader = engine.body(&name(GONE));
        remove(&engine, GONE);
        let refused = engine.scrub_within(Duration::ZERO).unwrap_err();
        assert!(
            refused.to_string().contains("somebody reads them"),
            "{refused}"
        );
        assert_eq!(&*reader.read().unwrap().unwrap(), vec![GONE; LARGE]);
        std::thread::scope(|scope| {
            let scrubbed = scope.spawn(|| engine.scrub_within(PATIENCE));
            while engine.scrubbing.at_work.try_lock().is_ok() {
                std::thread::yield_now();
            }
            assert_eq!(&*reader.read().unwrap().unwrap(), vec![GONE; LARGE]);
            drop(reader);
            scrubbed.join().unwrap().unwrap();
        });
        assert_eq!(found(dir.path(), &name(GONE)), 0);
    }

    #[test]
    fn a_disk_without_room_is_left_alone() {
        let (_dir, mut engine) = engine();
        engine.min_free_bytes = u64::MAX / 2;
        let refused = engine.scrub_within(PATIENCE).unwrap_err();
        assert!(matches!(refused, StoreError::Transient(_)));
        assert!(refused.to_string().contains("bytes are free"), "{refused}");
    }

    #[test]
    fn none_begins_in_a_store_that_ends() {
        let (_dir, engine) = engine();
        let at_work = engine.scrubbing.at_work.lock().unwrap();
        assert!(!engine.scrubbing.stop());
        drop(at_work);
        assert!(engine.scrubbing.stop());
        assert!(engine.scrub().is_err());
    }
}
