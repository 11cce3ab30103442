//! Sealing anew with the newest key, a batch at a time.
//!
//! Data keys are wrapped anew; the ciphertext of an answer stays as it is. The fingerprint becomes a MAC under the new
//! key, from the one in clear that the description holds. A record is replaced only at the version that was read.

use super::description::{envelope_of, text, Description};
use super::envelope::{self, Closed, NotRewrapped};
use super::events::no_random;
use super::index::{is_marker, is_place};
use super::keys::{Key, Keys};
use super::seal::{rewrap_answer, rewrap_redirect};
use super::Sealed;
use crate::record::{Execution, Slot, State, StoredOutcome};
use crate::search::no_place;
use crate::store::{ListFilter, RecordView, Rewrap, Rewrapped, StoreError};
use idempotency_protocol::LookupKey;
use std::sync::Arc;

/// How often a record is read again that changed meanwhile.
const TRIES: usize = 3;

/// What became of one record.
enum Done {
    Rewrapped,
    WasNewest,
    Busy,
    Unreadable,
}

impl Sealed {
    pub(super) async fn rewrap_batch(&self, rewrap: Rewrap) -> Result<Rewrapped, StoreError> {
        // The first byte tells whether this pass has left a record in clear.
        let (mut has_left, after) = match rewrap.after {
            None => (false, None),
            Some(mut after) => match after.first() {
                Some(left @ 0..=1) => {
                    let left = *left == 1;
                    after.remove(0);
                    (left, Some(after))
                }
                _ => return Err(no_place()),
            },
        };
        let filter = ListFilter {
            after,
            limit: rewrap.limit,
            ..ListFilter::default()
        };
        let page = self.inner.list(filter).await?;
        let mut done = Rewrapped::default();
        for view in page.records {
            if is_marker(&view.key) {
                continue;
            }
            done.looked_at += 1;
            if !is_place(&view.key) {
                match self.seal_clear(&view.key).await {
                    Ok(was_there) => {
                        done.rewrapped += usize::from(was_there);
                        done.in_clear += usize::from(was_there);
                    }
                    Err(StoreError::Transient(_)) => {
                        done.busy += 1;
                        has_left = true;
                    }
                    Err(error) => return Err(error),
                }
                continue;
            }
            match self.rewrap_record(&view).await? {
                Done::Rewrapped => done.rewrapped += 1,
                Done::WasNewest => {}
                Done::Busy => done.busy += 1,
                Done::Unreadable => done.unreadable += 1,
            }
        }
        done.next = page
            .next
            .map(|next| [&[u8::from(has_left)], next.as_slice()].concat());
        if done.next.is_none() && !has_left && self.has_clear() {
            self.no_clear_is_left().await?;
        }
        Ok(done)
    }

    async fn rewrap_record(&self, view: &RecordView) -> Result<Done, StoreError> {
        let place = &view.key;
        let keys = self.sealer.keys();
        let Some(first) = keys.keys.first() else {
            return Ok(Done::Unreadable);
        };
        for _ in 0..TRIES {
            let Some(slot) = self.inner.export(place).await? else {
                return Ok(Done::WasNewest);
            };
            let version = slot.version;
            let rewrapped = match rewrapped_slot(&keys, first, place, slot) {
                Ok(None) => return Ok(Done::WasNewest),
                Ok(Some(slot)) => slot,
                Err(NotRewrapped::NoRandom(why)) => return Err(no_random(why)),
                Err(NotRewrapped::Closed(closed)) => {
                    let _ = self.noted::<()>(Err(closed));
                    return Ok(Done::Unreadable);
                }
            };
            if self.inner.replace(place, version, Some(rewrapped)).await? {
                return Ok(Done::Rewrapped);
            }
        }
        Ok(Done::Busy)
    }
}

/// A record under this key; `None`: it is already.
fn rewrapped_slot(
    keys: &Keys,
    first: &Key,
    place: &LookupKey,
    mut slot: Slot,
) -> Result<Option<Slot>, NotRewrapped> {
    let Some(execution) = slot.execution.as_mut() else {
        return Ok(None);
    };
    let mut changed = fingerprint_and_description(keys, first, place, execution)?;
    for redirect in &mut execution.history.redirects {
        if let Some(rewrapped) = rewrap_redirect(keys, first, place, redirect)? {
            *redirect = rewrapped;
            changed = true;
        }
    }
    if let State::Completed(outcome) | State::Settled(_, outcome) = &mut execution.state {
        changed |= answer(keys, first, outcome)?;
    }
    if !changed {
        return Ok(None);
    }
    slot.version = slot.version.saturating_add(1);
    Ok(Some(slot))
}

fn answer(keys: &Keys, first: &Key, outcome: &mut StoredOutcome) -> Result<bool, NotRewrapped> {
    // Without its data it is unreadable, and nothing can be rewrapped.
    let Some(data) = &outcome.data else {
        return Ok(false);
    };
    let Some(rewrapped) = rewrap_answer(keys, first, data)? else {
        return Ok(false);
    };
    outcome.size = u64::try_from(rewrapped.len()).unwrap_or(u64::MAX);
    outcome.data = Some(rewrapped);
    Ok(true)
}

fn fingerprint_and_description(
    keys: &Keys,
    first: &Key,
    place: &LookupKey,
    execution: &mut Execution,
) -> Result<bool, NotRewrapped> {
    let damaged = || NotRewrapped::Closed(Closed::Damaged);
    let about = execution.history.about.as_deref().ok_or_else(damaged)?;
    let opened = Description::open(keys, place, about).ok_or_else(damaged)?;
    let of = opened.map_err(NotRewrapped::Closed)?.fingerprint;
    let newest = first.fingerprint(place, &of);
    let is_newest = execution.fingerprint == newest;
    let is_known = |key: &Key| key.fingerprint(place, &of) == execution.fingerprint;
    if !is_newest && !keys.keys.iter().any(is_known) {
        // Of a key that is missing, or not the fingerprint that was described.
        return Err(NotRewrapped::Closed(Closed::MissingKey));
    }
    let envelope = envelope_of(about).ok_or_else(damaged)?;
    let is_described_newest = envelope::key_name(&envelope).as_ref() == Some(&first.name);
    if is_newest && is_described_newest {
        return Ok(false);
    }
    execution.fingerprint = newest;
    if !is_described_newest {
        let rewrapped = envelope::rewrap(keys, first, &envelope)?;
        execution.history.about = Some(Arc::new(text(&rewrapped)));
    }
    Ok(true)
}
