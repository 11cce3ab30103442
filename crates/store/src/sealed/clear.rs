//! Records in clear, from before the encryption.
//!
//! A key has one home. As long as there is a record under the key itself, in clear, that is its home. So each process
//! moves that record before it works on the key. Moving is a copy to the sealed place, if nothing is there, and then a
//! removal of the original, which only sweeps change. A process that finds a copy *and* the original goes on where
//! another process stopped.

use super::description::Description;
use super::events::no_random;
use super::index::{is_marker, is_place};
use super::keys::Keys;
use super::marker;
use super::seal::{describe, seal_outcome, seal_redirect};
use super::Sealed;
use crate::record::{Execution, Slot, State, StoredOutcome};
use crate::store::StoreError;
use idempotency_protocol::LookupKey;

/// How often a move is begun anew because a sweep or another process was faster.
const TRIES: usize = 8;

impl Sealed {
    /// Sees to it that nothing is in clear under this key. Costs a read as long as there may be records in clear.
    pub(super) async fn bring(&self, key: &LookupKey) -> Result<(), StoreError> {
        if !self.has_clear() || is_place(key) || is_marker(key) {
            return Ok(());
        }
        self.seal_clear(key).await.map(drop)
    }

    /// The same; true: something was there.
    pub(super) async fn seal_clear(&self, key: &LookupKey) -> Result<bool, StoreError> {
        let keys = self.sealer.keys();
        let place = keys.index.place(key);
        let mut was_there = false;
        for _ in 0..TRIES {
            let Some(slot) = self.inner.export(key).await? else {
                return Ok(was_there);
            };
            was_there = true;
            let version = slot.version;
            let sealed = sealed_slot(&keys, key, &place, slot)?;
            let copied_version = sealed.version;
            let copied = self.inner.replace(&place, 0, Some(sealed)).await?;
            if self.inner.replace(key, version, None).await? {
                return Ok(true);
            }
            if copied && self.inner.export(key).await?.is_none() {
                // Another process had moved it, and what came of it is gone already: so must be our copy, unless
                // somebody works on it.
                self.inner.replace(&place, copied_version, None).await?;
                return Ok(true);
            }
        }
        let message = "a record in clear could not be sealed: it changes all the time".to_owned();
        Err(StoreError::Transient(message))
    }

    /// After a rewrap in another process, this one need not look for records in clear any more.
    pub(super) async fn look_for_end_of_clear(&self) {
        if !self.has_clear() {
            return;
        }
        if let Ok(has_clear) = marker::has_clear(&*self.inner).await {
            self.sealer.ring.set_has_clear(has_clear);
        }
    }

    /// A whole pass has found that no record in clear is left.
    pub(super) async fn no_clear_is_left(&self) -> Result<(), StoreError> {
        marker::nothing_clear(&*self.inner, &self.sealer.keys()).await?;
        self.sealer.ring.set_has_clear(false);
        Ok(())
    }
}

/// A record as it is kept from now on.
fn sealed_slot(
    keys: &Keys,
    key: &LookupKey,
    place: &LookupKey,
    slot: Slot,
) -> Result<Slot, StoreError> {
    let Some(execution) = slot.execution else {
        return Ok(slot);
    };
    let no_key = || StoreError::Permanent("there is no key".to_owned());
    let first = keys.keys.first().ok_or_else(no_key)?;
    let fence = slot.fence;
    let seal = |outcome: StoredOutcome| -> Result<StoredOutcome, StoreError> {
        let sealed = seal_outcome(keys, first, place, fence, &outcome).map_err(no_random)?;
        // Without its data it cannot be read in clear, either.
        Ok(sealed.unwrap_or(outcome))
    };
    let state = match execution.state {
        State::Completed(outcome) => State::Completed(seal(outcome)?),
        State::Settled(lease, outcome) => State::Settled(lease, seal(outcome)?),
        state @ (State::Executing(_) | State::Failed | State::Unknown) => state,
    };
    let description = Description {
        key: key.clone(),
        fingerprint: execution.fingerprint,
        about: execution.history.about.as_deref().cloned(),
    };
    let mut history = execution.history;
    if history.started_at == 0 {
        history.started_at = execution.created_at;
    }
    history.about = Some(describe(first, place, &description).map_err(no_random)?);
    for redirect in &mut history.redirects {
        *redirect = seal_redirect(first, place, redirect).map_err(no_random)?;
    }
    Ok(Slot {
        execution: Some(Execution {
            fingerprint: first.fingerprint(place, &execution.fingerprint),
            state,
            history,
            ..execution
        }),
        ..slot
    })
}
