//! The file `records`: a sequence of frames, one for each call that changed something.
//!
//! ```text
//! frame  := length:u64 checksum:32 time:u64 change*     (the length is that of what follows it)
//! change := key-length:u32 key (0 | 1 slot-length:u32 slot data-length:u32 data)
//! ```

use bytes::{Buf, BufMut, Bytes};
use idempotency_store::clock::Micros;
use idempotency_store::codec;
use idempotency_store::record::{Slot, State};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

/// All slots, by `LookupKey::to_bytes`.
pub type Slots = BTreeMap<Vec<u8>, Slot>;

/// Changes that make one frame.
#[derive(Default)]
pub struct Changes(Vec<u8>);

impl Changes {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The slot is this one from now on; `None`: it is removed.
    pub fn put(&mut self, key: &[u8], slot: Option<&Slot>) {
        self.put_bytes(key);
        let Some(slot) = slot else {
            return self.0.put_u8(0);
        };
        self.0.put_u8(1);
        self.put_bytes(&codec::encode(slot));
        // The codec leaves a large outcome out, for stores that keep it in another place.
        let outcome = codec::outcome(slot).filter(|_| codec::is_separate(slot));
        let data = outcome.and_then(|outcome| outcome.data.as_deref());
        self.put_bytes(data.unwrap_or_default());
    }

    fn put_bytes(&mut self, bytes: &[u8]) {
        let length = u32::try_from(bytes.len()).expect("no key and no outcome is that large");
        self.0.put_u32(length);
        self.0.put_slice(bytes);
    }
}

/// The file, open for more frames.
pub struct Journal(File);

impl Journal {
    /// Reads the journal in `dir`, or begins one: what is in it, and the newest time in it. It is
    /// written anew, without what was overwritten, removed or torn.
    pub fn open(dir: &Path) -> io::Result<(Journal, Slots, Micros)> {
        let (slots, newest) = read(&dir.join("records"))?;
        let mut changes = Changes::default();
        for (key, slot) in &slots {
            changes.put(key, Some(slot));
        }
        let new = dir.join("records.new");
        let mut journal = Journal(File::create(&new)?);
        journal.append(newest, &changes)?;
        std::fs::rename(&new, dir.join("records"))?;
        File::open(dir)?.sync_all()?;
        Ok((journal, slots, newest))
    }

    /// Writes one frame, and returns when it is on disk.
    pub fn append(&mut self, time: Micros, changes: &Changes) -> io::Result<()> {
        let mut body = Vec::with_capacity(8 + changes.0.len());
        body.put_u64(time);
        body.put_slice(&changes.0);
        let mut frame = Vec::with_capacity(40 + body.len());
        frame.put_u64(32 + body.len() as u64);
        frame.put_slice(&Sha256::digest(&body));
        frame.put_slice(&body);
        self.0.write_all(&frame)?;
        self.0.sync_all()
    }
}

/// A crash may have torn the last frame: nobody was told of what it holds, and it is left out. A
/// bad frame with something behind it is damage, and an error.
///
/// Damage to the length of a frame can look like a torn end. A store for real records needs a second
/// note of how far it had come.
fn read(path: &Path) -> io::Result<(Slots, Micros)> {
    let mut rest = match std::fs::read(path) {
        Ok(bytes) => Bytes::from(bytes),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Bytes::new(),
        Err(e) => return Err(e),
    };
    let (mut slots, mut newest) = (Slots::new(), 0);
    while let Ok(length) = rest.try_get_u64() {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length > rest.len() {
            break;
        }
        let frame = rest.split_to(length);
        match checked(frame) {
            Some(body) => {
                let time = apply(body, &mut slots);
                newest = newest.max(time.ok_or_else(damaged)?);
            }
            None if rest.is_empty() => break,
            None => return Err(damaged()),
        }
    }
    Ok((slots, newest))
}

fn damaged() -> io::Error {
    io::Error::other("the journal is damaged")
}

/// What follows the checksum, if that is right.
fn checked(mut frame: Bytes) -> Option<Bytes> {
    let mut checksum = [0; 32];
    frame.try_copy_to_slice(&mut checksum).ok()?;
    (Sha256::digest(&frame)[..] == checksum).then_some(frame)
}

/// Makes the changes of a frame; its time. `None` if it was not written by [`Journal::append`].
fn apply(mut body: Bytes, slots: &mut Slots) -> Option<Micros> {
    let time = body.try_get_u64().ok()?;
    while !body.is_empty() {
        let key = take_bytes(&mut body)?.to_vec();
        if body.try_get_u8().ok()? == 0 {
            slots.remove(&key);
            continue;
        }
        let mut slot = codec::decode(take_bytes(&mut body)?)?;
        let data = take_bytes(&mut body)?;
        if let Some(State::Completed(outcome)) = slot.execution.as_mut().map(|e| &mut e.state) {
            outcome.data.get_or_insert(data);
        }
        slots.insert(key, slot);
    }
    Some(time)
}

fn take_bytes(input: &mut Bytes) -> Option<Bytes> {
    let length = usize::try_from(input.try_get_u32().ok()?).ok()?;
    (length <= input.len()).then(|| input.split_to(length))
}
