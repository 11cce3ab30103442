//! Between rows and slots.

use super::past::{described, Kept};
use crate::clock::Micros;
use crate::history::History;
use crate::record::{Execution, Lease, Mark, MarkKind, Slot, State, StoredOutcome};
use bytes::Bytes;
use idempotency_protocol::{Fingerprint, Owner, Retention, Scheme};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio_postgres::types::FromSql;
use tokio_postgres::Row;

/// Length of a mark: owner, kind, end.
const MARK: usize = 16 + 1 + 8;

/// Longest time to live that changes anything; see [`crate::clock::micros`].
const MAX_TTL_MS: u64 = (1 << 52) / 1_000;

/// A point in store time as PostgreSQL keeps it, to the microsecond.
pub(super) fn time(at: Micros) -> SystemTime {
    UNIX_EPOCH + Duration::from_micros(at.min(1 << 53))
}

pub(super) fn micros(at: SystemTime) -> Micros {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// Versions and fences stay below 2⁵³.
pub(super) fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

pub(super) fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

pub(super) fn ttl(ms: u64) -> i64 {
    signed(ms.min(MAX_TTL_MS))
}

/// A record that is there but makes no sense to this program.
#[derive(Debug)]
pub(super) struct Damaged(pub &'static str);

/// What is in the place of one row.
#[derive(Clone, Debug)]
pub(super) enum FoundRow {
    /// No row.
    Nothing,
    /// A row.
    Slot(Box<Slot>),
    /// A row that this program cannot read whole: a later release wrote it, or it is damaged. It is never
    /// written.
    Illegible(&'static str),
}

impl FoundRow {
    /// What the machine may know of.
    pub fn slot(&self) -> Option<&Slot> {
        match self {
            FoundRow::Slot(slot) => Some(slot),
            FoundRow::Nothing | FoundRow::Illegible(_) => None,
        }
    }
}

/// The format of rows that this program writes.
const FORMAT: i16 = 1;

pub(super) use crate::transaction::statement::legible;

/// Columns of a record, in the order in which [`found`] reads them; the arguments are the expressions for
/// the description and for the outcome.
macro_rules! columns {
    ($about:literal, $outcome:literal) => {
        concat!(
            "r.version, r.fence, r.format, r.state, r.owner, r.scheme, r.digest, r.attempt, r.ttl_ms, ",
            "r.unknown_ttl_ms, r.created_at, r.changed_at, r.lease_until, r.status, ",
            "r.body_bytes, r.outcome_digest, r.outcome_size, r.marks, r.history, r.history_version, ",
            "r.history_fence, r.history_since, ",
            $about,
            ", ",
            $outcome
        )
    };
}
pub(super) use columns;

/// Reads [`columns`] one after the other.
struct Reader<'a> {
    row: &'a Row,
    next: usize,
}

impl<'a> Reader<'a> {
    fn take<T: FromSql<'a>>(&mut self) -> Result<Option<T>, Damaged> {
        let index = self.next;
        self.next += 1;
        self.row
            .try_get(index)
            .map_err(|_| Damaged("a column has another type"))
    }
}

fn there<T>(value: Option<T>) -> Result<T, Damaged> {
    value.ok_or(Damaged("a column is missing"))
}

/// What the columns from `first` on tell.
pub(super) fn found(row: &Row, first: usize) -> FoundRow {
    let reader = Reader { row, next: first };
    match slot(reader) {
        Ok(Some(slot)) => FoundRow::Slot(Box::new(slot)),
        Ok(None) => FoundRow::Nothing,
        Err(Damaged(what)) => FoundRow::Illegible(what),
    }
}

fn slot(mut r: Reader<'_>) -> Result<Option<Slot>, Damaged> {
    let Some(version) = r.take::<i64>()? else {
        return Ok(None);
    };
    let fence = there(r.take::<i64>()?)?;
    if r.take::<i16>()? != Some(FORMAT) {
        return Err(Damaged("another format"));
    }
    let state = there(r.take::<&str>()?)?;
    let owner = r.take::<&[u8]>()?;
    let scheme = r.take::<i64>()?;
    let digest = r.take::<&[u8]>()?;
    let attempt = r.take::<i64>()?;
    let ttl_ms = r.take::<i64>()?;
    let unknown_ttl_ms = r.take::<i64>()?;
    let created_at = r.take::<SystemTime>()?;
    let changed_at = r.take::<SystemTime>()?;
    let lease_until = r.take::<SystemTime>()?;
    let status = r.take::<i32>()?;
    let body_bytes = r.take::<i64>()?;
    let outcome_digest = r.take::<&[u8]>()?;
    let outcome_size = r.take::<i64>()?;
    let marks = decode_marks(there(r.take::<&[u8]>()?)?)?;
    let kept = Kept {
        bytes: r.take::<&[u8]>()?,
        version: r.take::<i64>()?,
        fence: r.take::<i64>()?,
        since: r.take::<SystemTime>()?,
    };
    let about = r.take::<serde_json::Value>()?;
    let outcome = r.take::<&[u8]>()?;

    let lease = || {
        Ok(Lease {
            until: micros(there(lease_until)?),
            // Needed only where a restart renews leases; here the server's clock goes on.
            length_ms: 0,
            boot: 0,
        })
    };
    let outcome = || {
        Ok(StoredOutcome {
            status: u16::try_from(there(status)?).map_err(|_| Damaged("no such status"))?,
            body_bytes: body_bytes.map(unsigned),
            digest: array(there(outcome_digest)?)?,
            size: unsigned(there(outcome_size)?),
            data: outcome.map(Bytes::copy_from_slice),
        })
    };
    let state = match state {
        "vacant" => None,
        "executing" => Some(State::Executing(lease()?)),
        "settled" => Some(State::Settled(lease()?, outcome()?)),
        "completed" => Some(State::Completed(outcome()?)),
        "failed" => Some(State::Failed),
        "unknown" => Some(State::Unknown),
        _ => return Err(Damaged("no such state")),
    };
    let execution = match state {
        None => None,
        Some(state) => {
            let mut execution = Execution {
                owner: owner.map(array).transpose()?.map(Owner),
                fingerprint: Fingerprint {
                    // The same 64 bits.
                    scheme: Scheme(u64::from_be_bytes(there(scheme)?.to_be_bytes())),
                    digest: array(there(digest)?)?,
                },
                attempt: u32::try_from(there(attempt)?).unwrap_or(u32::MAX),
                retention: Retention {
                    ttl_ms: unsigned(there(ttl_ms)?),
                    unknown_ttl_ms: unsigned(there(unknown_ttl_ms)?),
                },
                created_at: micros(there(created_at)?),
                changed_at: micros(there(changed_at)?),
                state,
                history: History::default(),
            };
            kept.recall(version, fence, described(about), &mut execution)?;
            Some(execution)
        }
    };
    Ok(Some(Slot {
        version: unsigned(version),
        fence: unsigned(fence),
        marks,
        execution,
    }))
}

fn array<const N: usize>(bytes: &[u8]) -> Result<[u8; N], Damaged> {
    bytes.try_into().map_err(|_| Damaged("a wrong length"))
}

pub(super) fn encode_marks(marks: &[Mark]) -> Vec<u8> {
    let mut out = Vec::with_capacity(marks.len() * MARK);
    for mark in marks {
        out.extend_from_slice(&mark.owner.0);
        out.push(match mark.kind {
            MarkKind::Cancelled => 0,
            MarkKind::Spent => 1,
        });
        out.extend_from_slice(&mark.until.to_be_bytes());
    }
    out
}

fn decode_marks(bytes: &[u8]) -> Result<Vec<Mark>, Damaged> {
    let mut marks = Vec::with_capacity(bytes.len() / MARK);
    for one in bytes.chunks(MARK) {
        let (owner, rest) = one
            .split_first_chunk::<16>()
            .ok_or(Damaged("a short mark"))?;
        let (kind, until) = rest.split_first().ok_or(Damaged("a short mark"))?;
        marks.push(Mark {
            owner: Owner(*owner),
            kind: match kind {
                0 => MarkKind::Cancelled,
                1 => MarkKind::Spent,
                _ => return Err(Damaged("no such mark")),
            },
            until: u64::from_be_bytes(array(until)?),
        });
    }
    Ok(marks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_exact_to_the_microsecond() {
        for at in [0, 1, 1_700_000_000_123_457, 1 << 52] {
            assert_eq!(micros(time(at)), at);
        }
    }

    #[test]
    fn marks_survive_the_round_trip_and_damage_is_noticed() {
        let mark = |n, kind| Mark {
            owner: Owner([n; 16]),
            kind,
            until: u64::from(n) << 40,
        };
        let marks = vec![mark(1, MarkKind::Cancelled), mark(2, MarkKind::Spent)];
        let bytes = encode_marks(&marks);
        assert_eq!(decode_marks(&bytes).unwrap(), marks);
        assert!(decode_marks(&bytes[..bytes.len() - 1]).is_err());
        assert!(decode_marks(&[9; MARK]).is_err());
    }
}
