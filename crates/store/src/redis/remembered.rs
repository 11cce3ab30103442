//! What a record remembers of its attempts, in Redis: the field `x`.
//!
//! ```text
//! x := created:u64 version:u64 history
//! ```
//!
//! The history is that of [`crate::history`]; the script reads and changes it. The two numbers stand
//! before the history of every format: they tell whether `x` still belongs to the record, which the
//! previous release changes without a look at it (`script/read.lua` has the same rules).

use crate::clock::Micros;
use crate::history::{History, Kinds, FORMAT};
use bytes::{Buf, Bytes};
use idempotency_protocol::{About, AttemptKind};

/// Of a record that is granted for the first time: what stands in its history before the time of
/// the grant, which only the server knows, and what stands behind it.
pub(super) fn first(kind: AttemptKind, about: Option<&About>) -> [Bytes; 2] {
    let fields = about.map(About::fields);
    let length = |field: &&String| 2 + field.len();
    let texts: usize = fields.iter().flatten().map(length).sum();
    let mut out = Vec::with_capacity(9 + texts);
    // No doubt and no effects; no earlier attempts and no redirects; no seal.
    out.extend([FORMAT, 0, Kinds::of(kind).bits(), kind as u8]);
    out.extend([0, 0, 0, 0, u8::from(fields.is_some())]);
    for field in fields.iter().flatten() {
        // Descriptions are cut far below 64 KiB before they come here.
        let length = u16::try_from(field.len()).unwrap_or(0);
        out.extend(length.to_be_bytes());
        out.extend(field.bytes().take(length.into()));
    }
    let mut before = Bytes::from(out);
    let behind = before.split_off(4);
    [before, behind]
}

/// What the record that was created then, and has this version now, remembers; `None` if it cannot be
/// read. `is_completed`: of a completed record the history may be older than its version.
pub(super) fn decode(
    x: Option<&[u8]>,
    created_at: Micros,
    version: u64,
    is_completed: bool,
) -> Option<History> {
    let Some(mut x) = x else {
        return Some(History::of_old(created_at));
    };
    let of = x.try_get_u64().ok()?;
    let written_at = x.try_get_u64().ok()?;
    if of != created_at {
        return Some(History::of_old(created_at));
    }
    let mut history = History::decode(Bytes::copy_from_slice(x))?;
    if written_at != version && !is_completed {
        history.effects = true;
        history.kinds = history.kinds.with(AttemptKind::Gateway);
        history.newest = AttemptKind::Gateway;
    }
    Some(history)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn about() -> About {
        let mut about = About::default();
        for (n, field) in about.fields_mut().into_iter().enumerate() {
            *field = "ü".repeat(n);
        }
        about
    }

    fn x(created_at: u64, version: u64, history: &History) -> Vec<u8> {
        let numbers = [created_at.to_be_bytes(), version.to_be_bytes()].concat();
        [numbers, history.encode()].concat()
    }

    #[test]
    fn a_first_attempt_is_a_history_around_the_time_of_its_grant() {
        let kinds = [
            AttemptKind::Gateway,
            AttemptKind::Guard,
            AttemptKind::Transaction,
        ];
        for kind in kinds {
            for about in [None, Some(about())] {
                let [before, behind] = first(kind, about.as_ref());
                let now = 1_700_000_000_000_000u64;
                let bytes = [&before[..], &now.to_be_bytes(), &behind[..]].concat();
                let history = History::first(kind, about.map(Arc::new), now);
                assert_eq!(bytes, history.encode());
            }
        }
    }

    #[test]
    fn it_belongs_to_its_record_and_to_its_version() {
        let history = History::first(AttemptKind::Guard, None, 5);
        let bytes = x(5, 7, &history);
        let read = |created_at, version, done| decode(Some(&bytes), created_at, version, done);
        assert_eq!(read(5, 7, false).as_ref(), Some(&history));
        assert_eq!(read(5, 9, true).as_ref(), Some(&history));
        // The previous release has changed it, or has made the record.
        let changed = read(5, 9, false).unwrap();
        assert!(changed.effects && !changed.kinds.are_all(AttemptKind::Guard));
        assert_eq!(changed.newest, AttemptKind::Gateway);
        assert_eq!(read(6, 7, false), Some(History::of_old(6)));
        assert_eq!(decode(None, 6, 7, false), Some(History::of_old(6)));
    }

    #[test]
    fn what_cannot_be_read_whole_is_not_read() {
        let bytes = x(5, 7, &History::first(AttemptKind::Guard, None, 5));
        for cut in 0..bytes.len() {
            assert_eq!(decode(bytes.get(..cut), 5, 7, false), None, "cut at {cut}");
        }
        let mut newer = bytes.clone();
        newer[16] = FORMAT + 1;
        assert_eq!(decode(Some(&newer), 5, 7, false), None);
    }
}
