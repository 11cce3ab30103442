//! Encryption at rest: a store around another one, which gets nothing in clear that tells of a request or its answer.
//!
//! ```text
//! let keys = sealed::Keys::parse(&std::fs::read_to_string("keys")?)?;
//! let store = Sealed::open(Arc::new(Embedded::open(options)?), KeyRing::new(keys)).await?;
//! ```
//!
//! Responses, redirects and descriptions are sealed, each in an envelope with a data key of its own (`envelope`);
//! tenants, keys, fingerprints and digests become MACs (`index`). What the state machine decides by stays: state,
//! times, fence, attempt, owner, status, sizes, namespace. `docs/adr/0023-encryption.md` has the table, field by
//! field, and `docs/encryption.md` says how it is used.
//!
//! # Keys
//!
//! ```text
//! # A comment.
//! index    uP3k…    the index key of this store; it never changes
//! 2026-11  Vt0q…    seals what is written from now on
//! 2026-05  Zb81…    opens what was sealed with it
//! ```
//!
//! A key is 32 bytes in base64 ([`Keys::line`] makes one). The name `index` is the index key's; the first other key
//! seals. No key is used as it is: each purpose has a key of its own, derived by HMAC-SHA256 from the written one and
//! the purpose's name.
//!
//! A key that is missing makes a record *not comparable* or *unreadable*, and never a grant.

mod clear;
mod description;
mod envelope;
mod events;
mod fences;
mod index;
mod keys;
mod marker;
mod rewrap;
mod ring;
mod seal;
mod transactions;
mod views;

pub use keys::{Keys, KeysError, INDEX, KEY_BYTES, MAX_KEYS, MAX_NAME_BYTES};
pub use marker::refuse_sealed;
pub use ring::{KeyRing, Trouble};
pub use seal::Sealer;

use crate::machine::Event;
use crate::quota::Quotas;
use crate::record::StoredOutcome;
use crate::search::{Found, Search};
use crate::store::{
    ListFilter, Page, RecordView, Resolution, Resolve, Resolved, Rewrap, Rewrapped, Store,
    StoreError, Swept, Usage,
};
use crate::transaction::{Statements, Transactions};
use crate::waiters::WaitCounts;
use async_trait::async_trait;
use fences::Fences;
use idempotency_protocol::{Answer, LookupKey, Operation, Outcome, Wait};
use std::sync::Arc;
use std::time::Instant;

/// A store that seals what it hands to another one. See the [module](self).
pub struct Sealed {
    inner: Arc<dyn Store>,
    sealer: Sealer,
    fences: Fences,
    /// The inner store's, sealing. Nobody asks for them where it has none.
    statements: Statements,
}

/// How often a read of two parts is tried that a writer came in between.
const TRIES: usize = 3;

impl Sealed {
    /// Seals for this store, and notes in it that it is sealed. Where it has records already, they stay readable, and
    /// [`Store::rewrap`] seals them; each is sealed as soon as it is asked for, too.
    ///
    /// No process may work on the records without encryption from now on.
    ///
    /// # Errors
    ///
    /// [`StoreError::Permanent`] if the store is sealed with another index key; as the store's otherwise.
    pub async fn open(inner: Arc<dyn Store>, ring: Arc<KeyRing>) -> Result<Sealed, StoreError> {
        let has_clear = marker::agree(&*inner, &ring.keys()).await?;
        ring.set_has_clear(has_clear);
        let sealer = Sealer { ring };
        let of_inner = inner.transactions().map(|of| of.statements().clone());
        let statements = of_inner.unwrap_or_else(|| Statements::in_schema("public"));
        Ok(Sealed {
            statements: statements.sealed_by(sealer.clone()),
            inner,
            sealer,
            fences: Fences::default(),
        })
    }

    fn has_clear(&self) -> bool {
        self.sealer.ring.has_clear()
    }

    /// The keys.
    pub fn ring(&self) -> &Arc<KeyRing> {
        &self.sealer.ring
    }

    /// Where the record of a key is. An operator may also name the place itself, where that is all that can be seen.
    fn operators_place(&self, key: &LookupKey) -> LookupKey {
        match index::is_place(key) {
            true => key.clone(),
            false => self.sealer.place(key),
        }
    }

    async fn answer(
        &self,
        place: &LookupKey,
        view: &RecordView,
    ) -> Result<Option<Outcome>, StoreError> {
        let Some(stored) = self.inner.stored(place).await? else {
            return Ok(None);
        };
        match self.sealer.open_answer(place, view.fence, stored.into()) {
            Ok(outcome) => Ok(Some(outcome.into_outcome())),
            Err(closed) => Err(StoreError::Permanent(closed.to_string())),
        }
    }
}

#[async_trait]
impl Store for Sealed {
    async fn apply(&self, operations: Vec<Operation>) -> Vec<Answer> {
        // Digests are over the plaintext.
        let events = operations.into_iter().map(Event::prepare).collect();
        self.apply_events(events).await
    }

    async fn apply_events(&self, events: Vec<(LookupKey, Event)>) -> Vec<Answer> {
        self.apply_sealed(events).await
    }

    async fn wait(&self, wait: Wait) -> Answer {
        if let Err(error) = self.bring(&wait.key).await {
            return Answer::Fault(error.into());
        }
        let keys = self.sealer.keys();
        let place = keys.index.place(&wait.key);
        let begun = Instant::now();
        // A record of another key is "changed" at once.
        for key in &keys.keys {
            let waited = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
            let sealed = Wait {
                fingerprint: key.fingerprint(&place, &wait.fingerprint),
                key: place.clone(),
                wait_ms: wait.wait_ms.saturating_sub(waited),
                ..wait.clone()
            };
            match self.inner.wait(sealed).await {
                Answer::Changed => {}
                answer => return self.open_stored(&place, answer),
            }
        }
        Answer::Changed
    }

    fn waits(&self) -> WaitCounts {
        self.inner.waits()
    }

    async fn inspect(&self, key: &LookupKey) -> Result<Option<RecordView>, StoreError> {
        self.bring(key).await?;
        let view = self.inner.inspect(&self.operators_place(key)).await?;
        Ok(view.map(|view| self.named(key, view)))
    }

    async fn list(&self, filter: ListFilter) -> Result<Page, StoreError> {
        self.list_opened(filter).await
    }

    async fn search(&self, search: Search) -> Result<Found, StoreError> {
        self.search_opened(search).await
    }

    async fn stored(&self, key: &LookupKey) -> Result<Option<Outcome>, StoreError> {
        self.bring(key).await?;
        let place = self.operators_place(key);
        let mut tries = 0;
        loop {
            tries += 1;
            let Some(view) = self.inner.inspect(&place).await? else {
                return Ok(None);
            };
            match self.answer(&place, &view).await {
                // Perhaps that of another attempt.
                Err(error) if tries < TRIES => {
                    let now = self.inner.inspect(&place).await?;
                    if now.is_some_and(|now| now.version == view.version) {
                        return Err(error);
                    }
                }
                answer => return answer,
            }
        }
    }

    async fn resolve(&self, resolve: Resolve) -> Result<Resolved, StoreError> {
        self.bring(&resolve.key).await?;
        let asked = resolve.key.clone();
        let place = self.operators_place(&asked);
        let to = match resolve.to {
            Resolution::Failed | Resolution::Deleted => resolve.to,
            to @ (Resolution::Completed(_) | Resolution::Prepared(_)) => {
                // The answer is sealed for the fence of the version that the operator saw.
                let view = match self.inner.inspect(&place).await? {
                    None => return Ok(Resolved::NoSuchKey),
                    Some(view) if view.version != resolve.version => {
                        return Ok(Resolved::VersionChanged(self.named(&asked, view)))
                    }
                    Some(view) => view,
                };
                let outcome: Option<StoredOutcome> = to.outcome();
                let sealed =
                    outcome.and_then(|outcome| self.sealer.outcome(&place, view.fence, &outcome));
                let cannot = || StoreError::Transient("the answer cannot be sealed".to_owned());
                Resolution::Prepared(sealed.ok_or_else(cannot)?)
            }
        };
        let resolve = Resolve {
            key: place,
            to,
            ..resolve
        };
        let named = |view| self.named(&asked, view);
        Ok(match self.inner.resolve(resolve).await? {
            Resolved::Done(view) => Resolved::Done(view.map(named)),
            Resolved::NoSuchKey => Resolved::NoSuchKey,
            Resolved::VersionChanged(view) => Resolved::VersionChanged(named(view)),
            Resolved::Executing(view) => Resolved::Executing(named(view)),
        })
    }

    async fn sweep(&self, limit: usize) -> Result<Swept, StoreError> {
        let swept = self.inner.sweep(limit).await?;
        self.look_for_end_of_clear().await;
        Ok(swept)
    }

    async fn set_quotas(&self, quotas: Quotas) -> Result<(), StoreError> {
        self.inner.set_quotas(quotas).await
    }

    async fn rewrap(&self, rewrap: Rewrap) -> Result<Rewrapped, StoreError> {
        self.rewrap_batch(rewrap).await
    }

    async fn scrub(&self) -> Result<bool, StoreError> {
        self.inner.scrub().await
    }

    async fn ready(&self) -> Result<Usage, StoreError> {
        self.inner.ready().await
    }

    async fn broken(&self) -> StoreError {
        self.inner.broken().await
    }

    fn transactions(&self) -> Option<&dyn Transactions> {
        self.inner.transactions().map(|_| self as &dyn Transactions)
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}
