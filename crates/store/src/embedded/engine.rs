//! The trees on disk: what the rest of the store asks of the storage engine.

use super::body::BodyReader;
use super::scrub::Scrubbing;
use super::{creation, lack, private, resync};
use super::{Durability, EmbeddedOptions};
use crate::clock::Micros;
use crate::codec;
use crate::quota::{TenantUse, Tenants};
use crate::record::{Slot, State};
use crate::store::StoreError;
use bytes::{Buf, BufMut, Bytes};
use fjall::config::{HashRatioPolicy, PartitioningPolicy, PinningPolicy};
use fjall::{Database, Keyspace, KeyspaceCreateOptions, KvSeparationOptions, PersistMode};
use std::collections::HashMap;
use std::ops::Bound;
use std::path::PathBuf;

/// Layout of the directory. Raise it when an older version could not read the data any more.
const FORMAT: u32 = 2;
/// The format without histories, which the first releases wrote and could not read past.
const FORMAT_1: u32 = 1;

/// Key of [`Head`] in the tree of the same name.
const HEAD: &[u8] = b"head";

/// What the store knows about itself, written with every commit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Head {
    /// Number of this start.
    pub boot: u64,
    /// The newest store time that a commit has seen.
    pub last_seen: Micros,
    /// Number of records.
    pub records: u64,
    /// Size of the data in bytes.
    pub bytes: u64,
}

/// What a slot takes up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Footprint {
    /// Where it stands in the index of due times.
    pub due: Micros,
    /// Bytes, over all trees.
    pub bytes: u64,
    /// Its outcome is in the tree of bodies.
    pub separate: bool,
    /// There is a record, not only marks.
    pub record: bool,
    /// An execution holds the key.
    pub executing: bool,
}

impl Footprint {
    pub fn of(key: &[u8], slot: &Slot, encoded: usize) -> Footprint {
        let separate = codec::is_separate(slot);
        let body = codec::outcome(slot)
            .filter(|_| separate)
            .map_or(0, |o| o.size + len(key.len()));
        Footprint {
            due: slot.due(),
            bytes: len(2 * key.len() + 8 + encoded) + body,
            separate,
            record: slot.execution.is_some(),
            executing: matches!(
                slot.execution.as_ref().map(|e| &e.state),
                Some(State::Executing(_))
            ),
        }
    }

    /// As its tenant is charged for it.
    pub fn charge(&self) -> TenantUse {
        TenantUse {
            executions: u64::from(self.executing),
            records: u64::from(self.record),
            bytes: self.bytes,
        }
    }
}

fn len(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

/// What becomes of one key in a commit. Consolidated per key: the engine gives all changes of a
/// batch the same sequence number, so each database key may occur only once.
#[derive(Debug)]
pub(super) struct Write {
    /// What is on disk before the commit.
    pub before: Option<Footprint>,
    /// What is there afterwards.
    pub after: Option<After>,
}

/// A slot, ready to be written.
#[derive(Debug)]
pub(super) struct After {
    pub footprint: Footprint,
    pub encoded: Vec<u8>,
    /// The outcome for the tree of bodies; `None` also where the one on disk stays.
    pub body: Option<Bytes>,
}

pub(super) struct Engine {
    pub(super) db: Database,
    /// Key → slot.
    pub(super) records: Keyspace,
    /// Key → outcome, where that is too large for the slot.
    pub(super) bodies: Keyspace,
    /// Due time and key → nothing.
    pub(super) due: Keyspace,
    /// One entry: [`Head`].
    pub(super) head: Keyspace,
    durability: Durability,
    /// The directory.
    pub(super) path: PathBuf,
    /// What is to stay free on its disk, in bytes.
    pub(super) min_free_bytes: u64,
    pub(super) scrubbing: Scrubbing,
    /// What there is to say about how it was opened.
    pub notes: Vec<String>,
}

impl Engine {
    /// Opens or creates the directory. Blocks. When it returns, everything that was found is on
    /// disk, whatever happened to the process before.
    ///
    /// # Errors
    ///
    /// Transient where space or file descriptors lack: opening may be tried again.
    pub fn open(options: &EmbeddedOptions) -> Result<(Engine, Head), StoreError> {
        let place = options.path.display();
        let failed = |error: fjall::Error| match error {
            fjall::Error::Locked => {
                StoreError::Permanent(format!("{place} is in use by another process"))
            }
            fjall::Error::InvalidVersion(_) => {
                StoreError::Permanent(format!("{place} was written by another version"))
            }
            error if lack::is_lack(&error) => {
                StoreError::Transient(format!("{place} cannot be opened now: {error}"))
            }
            fjall::Error::Io(error) => {
                StoreError::Permanent(format!("{place} cannot be opened: {error}"))
            }
            error => StoreError::Permanent(format!("{place} is damaged: {error}")),
        };
        private::create(&options.path).map_err(|e| failed(e.into()))?;
        let mut notes = private::mend(&options.path);
        lack::descriptors()?;
        if creation::undo_interrupted(&options.path).map_err(|e| failed(e.into()))? {
            notes.push(format!(
                "{place}: its creation was interrupted, and begins anew"
            ));
        }
        let is_new = !options.path.join("version").exists();
        if is_new {
            lack::space(options)?;
        }
        let db = Database::builder(&options.path)
            .cache_size(options.cache_bytes)
            .max_journaling_size(options.journal_bytes.max(64 << 20))
            .max_cached_files(Some(lack::cached_tables()))
            .worker_threads(2)
            .open()
            .map_err(failed)?;
        let tree = || {
            KeyspaceCreateOptions::default().max_memtable_size(options.write_buffer_bytes.max(1))
        };
        // Records are looked up one at a time and by random key, for the most part those that do
        // not exist: filters stay in memory, and so does the index of blocks (together about 10 bytes
        // per record), outside the cache.
        let points = || {
            tree()
                .filter_block_pinning_policy(PinningPolicy::all(true))
                .index_block_pinning_policy(PinningPolicy::all(true))
                .filter_block_partitioning_policy(PartitioningPolicy::all(false))
                .index_block_partitioning_policy(PartitioningPolicy::all(false))
                .data_block_hash_ratio_policy(HashRatioPolicy::all(8.0))
        };
        let large = || tree().with_kv_separation(Some(KvSeparationOptions::default()));
        let mut engine = Engine {
            records: db.keyspace("records", points).map_err(failed)?,
            bodies: db.keyspace("bodies", large).map_err(failed)?,
            due: db.keyspace("due", tree).map_err(failed)?,
            head: db.keyspace("head", tree).map_err(failed)?,
            durability: options.durability,
            path: options.path.clone(),
            min_free_bytes: options.min_free_bytes,
            scrubbing: Scrubbing::default(),
            db,
            notes: Vec::new(),
        };
        let head = match engine.head.get(HEAD).map_err(failed)? {
            None => Head::default(),
            Some(bytes) => decode_head(Bytes::from(bytes))
                .map_err(|why| StoreError::Permanent(format!("{place} {why}")))?,
        };
        // Not before: what an interrupted flush left behind is room again once the engine is open.
        if !is_new {
            lack::space(options)?;
        }
        if !resync::ended_cleanly(&options.path).map_err(|e| failed(e.into()))? && head.boot > 0 {
            let bytes = resync::write_again(&options.path).map_err(|e| failed(e.into()))?;
            notes.push(format!(
                "{place}: the last process did not end in order: {bytes} bytes were synced again"
            ));
        }
        resync::forget_clean_end(&options.path).map_err(|e| failed(e.into()))?;
        engine.notes = notes;
        Ok((engine, head))
    }

    /// Reads one slot. What it finds is as durable as the mode promises: the engine makes a
    /// commit visible only after it has been persisted.
    pub fn load(&self, key: &[u8]) -> Result<Loaded, StoreError> {
        let found = self.records.get(key).map_err(unreadable)?;
        Ok(
            match found.map(|value| decode_slot(key, Bytes::from(value))) {
                None => Loaded::Nothing,
                Some(Some((slot, footprint))) => Loaded::Slot(Box::new(slot), footprint),
                Some(None) => Loaded::Illegible,
            },
        )
    }

    /// Has the outcome of a slot that does not hold it read later, as it is now.
    pub fn body(&self, key: &[u8]) -> BodyReader {
        let (snapshot, bodies) = (self.db.snapshot(), self.bodies.clone());
        BodyReader {
            snapshot,
            bodies,
            key: key.to_vec(),
        }
    }

    /// Writes all or nothing. When it returns, the writes are as durable as the mode promises.
    pub fn commit(&self, writes: HashMap<Vec<u8>, Write>, head: Head) -> Result<(), StoreError> {
        let mut batch = self
            .db
            .batch()
            .durability(Some(persistence(self.durability)));
        for (key, write) in writes {
            let due_before = write.before.map(|f| f.due);
            let due_after = write.after.as_ref().map(|a| a.footprint.due);
            if due_before != due_after {
                if let Some(due) = due_before {
                    batch.remove(&self.due, due_key(due, &key));
                }
                if let Some(due) = due_after {
                    batch.insert(&self.due, due_key(due, &key), Bytes::new());
                }
            }
            let separate = write.after.as_ref().is_some_and(|a| a.footprint.separate);
            if write.before.is_some_and(|f| f.separate) && !separate {
                batch.remove(&self.bodies, key.clone());
            }
            match write.after {
                None if write.before.is_none() => {}
                None => batch.remove(&self.records, key),
                Some(After { encoded, body, .. }) => {
                    if let Some(body) = body {
                        batch.insert(&self.bodies, key.clone(), body);
                    }
                    batch.insert(&self.records, key, encoded);
                }
            }
        }
        batch.insert(&self.head, HEAD, encode_head(head));
        let _still = self.scrubbing.keep_still();
        batch.commit().map_err(unwritable)
    }

    /// Makes everything durable that was committed before.
    pub fn sync(&self) -> Result<(), StoreError> {
        self.db.persist(PersistMode::SyncData).map_err(unwritable)
    }

    /// Index entries after `cursor` that are due at `now` or before, as (entry, key), in the order of their time.
    pub fn due(
        &self,
        cursor: &[u8],
        now: Micros,
        limit: usize,
    ) -> Result<Vec<DueEntry>, StoreError> {
        let end = now.saturating_add(1).to_be_bytes();
        if cursor >= end.as_slice() {
            return Ok(Vec::new());
        }
        let range = (Bound::Excluded(cursor), Bound::Excluded(end.as_slice()));
        let mut found = Vec::new();
        for guard in self.due.range::<&[u8], _>(range).take(limit) {
            let entry = Bytes::from(guard.key().map_err(unreadable)?);
            let mut rest = entry.clone();
            let due = rest
                .try_get_u64()
                .map_err(|_| damaged("index of due times"))?;
            found.push(DueEntry {
                entry,
                due,
                key: rest,
            });
        }
        Ok(found)
    }

    /// Counts what every tenant has: a look at every record, where there is a quota, but those
    /// that are to be left out.
    pub fn count(
        &self,
        tenants: &mut Tenants,
        leave_out: impl Fn(&[u8]) -> bool,
    ) -> Result<(), StoreError> {
        if !tenants.counts() {
            return Ok(());
        }
        for guard in self.records.iter() {
            let (key, value) = guard.into_inner().map_err(unreadable)?;
            if leave_out(&key) {
                continue;
            }
            // What cannot be read is charged to nobody.
            if let Some((_, footprint)) = decode_slot(&key, Bytes::from(value)) {
                tenants.add(&key, footprint.charge());
            }
        }
        Ok(())
    }

    /// Visits records in key order, starting after `after` or at `prefix`, until `visit` returns
    /// false or the prefix ends.
    pub fn scan(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        mut visit: impl FnMut(&[u8], Slot) -> bool,
    ) -> Result<(), StoreError> {
        // One record that cannot be read must not hide the others.
        self.visit(prefix, after, |key, encoded| {
            codec::decode(encoded).is_none_or(|slot| visit(key, slot))
        })
    }

    /// As [`Engine::scan`], with the bytes of each slot as they are.
    pub fn visit(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        mut visit: impl FnMut(&[u8], Bytes) -> bool,
    ) -> Result<(), StoreError> {
        let start = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        for guard in self.records.range::<&[u8], _>((start, Bound::Unbounded)) {
            let (key, value) = guard.into_inner().map_err(unreadable)?;
            if !key.starts_with(prefix) || !visit(&key, Bytes::from(value)) {
                break;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
impl Engine {
    /// Puts other bytes in the place of a record, as damage or a later release would.
    pub fn replace_record(&self, key: &[u8], bytes: &[u8]) {
        self.records.insert(key, bytes).unwrap();
    }

    /// The bytes of a record.
    pub fn record(&self, key: &[u8]) -> Vec<u8> {
        self.records.get(key).unwrap().unwrap().to_vec()
    }

    /// Puts other bytes in the place of a body, or removes it.
    pub fn replace_body(&self, key: &[u8], bytes: Option<&[u8]>) {
        match bytes {
            Some(bytes) => self.bodies.insert(key, bytes).unwrap(),
            None => self.bodies.remove(key).unwrap(),
        }
    }
}

/// What a commit does before it returns: fsync the journal, or hand it to the operating system,
/// which keeps it over the death of the process.
fn persistence(durability: Durability) -> PersistMode {
    match durability {
        Durability::Durable => PersistMode::SyncData,
        Durability::Relaxed { .. } => PersistMode::Buffer,
    }
}

/// One entry of the index of due times.
pub(super) struct DueEntry {
    pub entry: Bytes,
    pub due: Micros,
    pub key: Bytes,
}

fn due_key(due: Micros, key: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(8 + key.len());
    out.put_u64(due);
    out.put_slice(key);
    out
}

/// What is on disk under a key.
pub(super) enum Loaded {
    /// Nothing.
    Nothing,
    /// A slot, and what it takes up.
    Slot(Box<Slot>, Footprint),
    /// A record that is damaged, or that a later release wrote: this build must not rewrite it.
    Illegible,
}

fn decode_slot(key: &[u8], value: Bytes) -> Option<(Slot, Footprint)> {
    let encoded = value.len();
    let slot = codec::decode(value)?;
    let footprint = Footprint::of(key, &slot, encoded);
    Some((slot, footprint))
}

fn encode_head(head: Head) -> Vec<u8> {
    let mut out = Vec::with_capacity(36);
    out.put_u32(FORMAT);
    for number in [head.boot, head.last_seen, head.records, head.bytes] {
        out.put_u64(number);
    }
    out
}

fn decode_head(mut bytes: Bytes) -> Result<Head, String> {
    let cut = |_| "is damaged: its head is cut off".to_owned();
    match bytes.try_get_u32().map_err(cut)? {
        FORMAT | FORMAT_1 => Ok(Head {
            boot: bytes.try_get_u64().map_err(cut)?,
            last_seen: bytes.try_get_u64().map_err(cut)?,
            records: bytes.try_get_u64().map_err(cut)?,
            bytes: bytes.try_get_u64().map_err(cut)?,
        }),
        other => Err(format!(
            "has data format {other}; this version reads formats {FORMAT_1} and {FORMAT}"
        )),
    }
}

fn damaged(what: &str) -> StoreError {
    StoreError::Permanent(format!("a {what} is damaged"))
}

/// Whether what was read is damaged, rather than not to be had for the moment: a checksum or a form that is
/// wrong. What the operating system refuses, in whatever layer, says nothing of the bytes.
pub(super) fn is_damage(error: &fjall::Error) -> bool {
    use fjall::Error as E;
    let is_of_bytes = matches!(
        error,
        E::Storage(_) | E::Decompress(_) | E::InvalidTag(_) | E::InvalidTrailer
    );
    is_of_bytes && !has_io_error(error)
}

fn has_io_error(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.is::<std::io::Error>() {
            return true;
        }
        next = error.source();
    }
    false
}

pub(super) fn unreadable(error: fjall::Error) -> StoreError {
    classed(format!("cannot read: {error}"), &error)
}

pub(super) fn unwritable(error: fjall::Error) -> StoreError {
    match error {
        fjall::Error::Poisoned => StoreError::Transient(
            "cannot write: the engine stopped after it could not write a journal or a table".into(),
        ),
        error => classed(format!("cannot write: {error}"), &error),
    }
}

fn classed(text: String, error: &fjall::Error) -> StoreError {
    if lack::is_lack(error) {
        StoreError::Transient(text)
    } else {
        StoreError::Permanent(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_durable_commit_is_synced() {
        assert_eq!(persistence(Durability::Durable), PersistMode::SyncData);
        let relaxed = Durability::Relaxed {
            interval: Duration::from_millis(1),
        };
        assert_eq!(persistence(relaxed), PersistMode::Buffer);
    }

    #[test]
    fn a_newer_format_and_a_damaged_head_are_told_apart() {
        let head = Head {
            boot: 1,
            last_seen: 2,
            records: 3,
            bytes: 4,
        };
        assert_eq!(decode_head(encode_head(head).into()), Ok(head));
        let mut newer = encode_head(head);
        newer[3] = 9;
        assert!(decode_head(newer.into()).unwrap_err().contains("format 9"));
        let cut = encode_head(head)[..20].to_vec();
        assert!(decode_head(cut.into()).unwrap_err().contains("damaged"));
    }
}
