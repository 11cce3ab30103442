//! Searching: what an operator looks for, and how backends and callers go through it.
//!
//! A search goes through the records in the store's own order, a bounded number of them per call, and returns
//! those that match. [`oldest_first`] and [`newest_first`] put what matches in order of time, within a budget
//! that the caller chooses. Neither keeps an index: what a search costs is told by how many records it looks at
//! ([`Found::looked_at`]).

use crate::keys;
use crate::store::{ListFilter, Page, RecordState, RecordView, Store, StoreError};
use idempotency_protocol::{log_id, LookupKey, Origin};
use std::collections::{BTreeMap, HashMap};

/// Most records that a backend in this process looks at in one call.
pub const MAX_LOOKED_AT: usize = 50_000;

/// What an operator looks for. A record matches if it has everything that is given; an empty search matches
/// every record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Search {
    /// This tenant; the empty one is that of rules with global scope.
    pub tenant: Option<String>,
    /// This namespace.
    pub namespace: Option<String>,
    /// Exactly this key, over all tenants if none is given.
    pub key: Option<String>,
    /// Keys that begin like this.
    pub key_prefix: Option<String>,
    /// The id by which logs name the key: [`log_id`].
    pub log_id: Option<String>,
    /// The id of the request of the newest attempt.
    pub request_id: Option<String>,
    /// The trace id of the newest attempt, 32 hexadecimal digits.
    pub trace_id: Option<String>,
    /// One of: exactly this key, the beginning of it, its log id, its request id, or its trace id; for a search box.
    pub text: Option<String>,
    /// This state.
    pub state: Option<RecordState>,
    /// This path; with a `*` at its end, paths that begin like this.
    pub path: Option<String>,
    /// This rule.
    pub rule: Option<String>,
    /// In its state since this time or earlier, milliseconds since the Unix epoch, on the store's clock.
    pub changed_until_ms: Option<u64>,
    /// In its state since this time or later, milliseconds since the Unix epoch, on the store's clock.
    pub changed_from_ms: Option<u64>,
    /// Where the previous call ended ([`Found::next`]), with everything else as it was then.
    pub after: Option<Vec<u8>>,
    /// Most records in the answer; backends cap it at 1,000.
    pub limit: usize,
}

/// What one call found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Found {
    /// What matches. It may be empty although there is more.
    pub records: Vec<RecordView>,
    /// Pass as [`Search::after`] to go on; `None`: every record has been looked at.
    pub next: Option<Vec<u8>>,
    /// How many records this call has looked at.
    pub looked_at: usize,
}

impl Search {
    /// Whether a key can be that of a record that matches. Backends ask this before they read a record.
    pub fn may_be(&self, key: &LookupKey) -> bool {
        let is = |wanted: &Option<String>, text: &str| wanted.as_ref().is_none_or(|w| w == text);
        is(&self.tenant, &key.tenant)
            && is(&self.namespace, &key.namespace)
            && is(&self.key, &key.key)
            && self
                .key_prefix
                .as_ref()
                .is_none_or(|prefix| key.key.starts_with(prefix.as_str()))
            && self.log_id.as_ref().is_none_or(|id| *id == log_id(key))
    }

    /// Whether a record matches.
    pub fn matches(&self, view: &RecordView) -> bool {
        let about = view.about.as_deref();
        let told = |wanted: &Option<String>, field: Option<&String>| {
            wanted.as_ref().is_none_or(|wanted| field == Some(wanted))
        };
        self.may_be(&view.key)
            && self.state.is_none_or(|state| state == view.state)
            && self
                .changed_until_ms
                .is_none_or(|t| view.changed_at_ms <= t)
            && self.changed_from_ms.is_none_or(|t| view.changed_at_ms >= t)
            && told(&self.request_id, about.map(|a| &a.request_id))
            && told(&self.trace_id, about.map(|a| &a.trace_id))
            && told(&self.rule, about.map(|a| &a.rule))
            && self.path.as_ref().is_none_or(|wanted| {
                about.is_some_and(|about| match wanted.strip_suffix('*') {
                    Some(beginning) => about.path.starts_with(beginning),
                    None => about.path == *wanted,
                })
            })
            && self.text.as_ref().is_none_or(|text| {
                view.key.key.starts_with(text.as_str())
                    || *text == log_id(&view.key)
                    || about.is_some_and(|a| a.request_id == *text || a.trace_id == *text)
            })
    }

    /// The two keys that alone can match, where tenant, namespace and key are given: they need no search.
    pub fn exact(&self) -> Option<[LookupKey; 2]> {
        let (tenant, namespace) = (self.tenant.as_ref()?, self.namespace.as_ref()?);
        let key = self.key.as_ref()?;
        Some([Origin::Client, Origin::Derived].map(|origin| LookupKey {
            tenant: tenant.clone(),
            namespace: namespace.clone(),
            origin,
            key: key.clone(),
        }))
    }

    /// The longest prefix that the bytes of all keys which match share.
    pub fn prefix(&self) -> Vec<u8> {
        keys::prefix(&self.list())
    }

    /// Where a search in the order of the keys begins, given its [`Search::prefix`]; true: behind that place.
    pub fn start(&self, prefix: &[u8]) -> (Vec<u8>, bool) {
        match &self.after {
            Some(after) if after.as_slice() >= prefix => (after.clone(), true),
            _ => (prefix.to_vec(), false),
        }
    }

    /// Most records in the answer.
    pub fn page(&self) -> usize {
        self.limit.clamp(1, keys::MAX_PAGE)
    }

    fn list(&self) -> ListFilter {
        ListFilter {
            tenant: self.tenant.clone(),
            namespace: self.namespace.clone(),
            state: self.state,
            after: self.after.clone(),
            limit: self.page(),
        }
    }
}

/// Answers a search whose keys are known, by a look at each; `None` if it is another one.
///
/// # Errors
///
/// As [`Store::inspect`].
pub async fn exactly<S: Store + ?Sized>(
    store: &S,
    search: &Search,
) -> Result<Option<Found>, StoreError> {
    let Some(keys) = search.exact() else {
        return Ok(None);
    };
    let mut found = Found::default();
    for key in keys {
        found.looked_at += 1;
        let view = store.inspect(&key).await?;
        found
            .records
            .extend(view.filter(|view| search.matches(view)));
    }
    Ok(Some(found))
}

/// A search by pages of [`Store::list`], for stores that have no way of their own.
///
/// # Errors
///
/// As [`Store::list`].
pub async fn by_pages<S: Store + ?Sized>(store: &S, search: &Search) -> Result<Found, StoreError> {
    if let Some(found) = exactly(store, search).await? {
        return Ok(found);
    }
    let mut filter = search.list();
    let mut found = Found::default();
    loop {
        let Page { records, next } = store.list(filter.clone()).await?;
        // A page of a filter that matches little has looked at more; nobody tells.
        found.looked_at += records.len().max(1);
        found.records = records;
        found.records.retain(|view| search.matches(view));
        found.next = next;
        if found.next.is_none() || !found.records.is_empty() || found.looked_at >= MAX_LOOKED_AT {
            return Ok(found);
        }
        filter.after.clone_from(&found.next);
    }
}

/// Fills the answer of a search that goes over slots in key order; the counterpart of [`keys::PageBuilder`].
pub struct FoundBuilder<'a> {
    search: &'a Search,
    last: Option<Vec<u8>>,
    found: Found,
}

impl<'a> FoundBuilder<'a> {
    /// An empty answer.
    pub fn new(search: &'a Search) -> FoundBuilder<'a> {
        FoundBuilder {
            search,
            last: None,
            found: Found::default(),
        }
    }

    /// No more records are wanted in this call. Ask only when there is one more to look at.
    pub fn is_full(&mut self) -> bool {
        let is_full =
            self.found.records.len() >= self.search.page() || self.found.looked_at >= MAX_LOOKED_AT;
        if is_full {
            self.found.next = self.last.take();
        }
        is_full
    }

    /// The key of the next record; `None`: it need not be read.
    pub fn look(&mut self, bytes: &[u8]) -> Option<LookupKey> {
        self.found.looked_at += 1;
        match &mut self.last {
            Some(last) => {
                last.clear();
                last.extend_from_slice(bytes);
            }
            none => *none = Some(bytes.to_vec()),
        }
        keys::from_bytes(bytes).filter(|key| self.search.may_be(key))
    }

    /// The record under the key that was looked at.
    pub fn offer(&mut self, view: Option<RecordView>) {
        let view = view.filter(|view| self.search.matches(view));
        self.found.records.extend(view);
    }

    /// The answer, as far as it was filled.
    pub fn finish(self) -> Found {
        self.found
    }
}

/// What a search in order of time found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ordered {
    /// What matches, in order.
    pub records: Vec<RecordView>,
    /// Pass as [`Search::after`] to go on.
    pub next: Option<Vec<u8>>,
    /// How many records were looked at.
    pub looked_at: usize,
    /// False: the budget ended first, and the order is that of the records that were looked at.
    pub is_complete: bool,
}

/// The first byte of a token of an ordered search, and its length without the key.
const ORDERED: u8 = b't';
const HEAD: usize = 9;

/// What matches, by the time since when it is in its state, the oldest first. `most`: how many records may be
/// looked at. It keeps no more than one page in memory. Where records change meanwhile, none is shown twice, and
/// none that stays as it is is left out.
///
/// # Errors
///
/// As [`Store::search`]; [`StoreError::Permanent`] if [`Search::after`] is of no ordered search.
pub async fn oldest_first<S: Store + ?Sized>(
    store: &S,
    search: Search,
    most: usize,
) -> Result<Ordered, StoreError> {
    ordered(store, search, most, |time| time).await
}

/// The same, the newest first.
///
/// # Errors
///
/// As [`oldest_first`].
pub async fn newest_first<S: Store + ?Sized>(
    store: &S,
    search: Search,
    most: usize,
) -> Result<Ordered, StoreError> {
    ordered(store, search, most, |time| u64::MAX - time).await
}

async fn ordered<S: Store + ?Sized>(
    store: &S,
    mut search: Search,
    most: usize,
    rank: fn(u64) -> u64,
) -> Result<Ordered, StoreError> {
    let limit = search.page();
    let after = search.after.take().map(place).transpose()?;
    search.limit = keys::MAX_PAGE;
    let mut best: BTreeMap<(u64, Vec<u8>), RecordView> = BTreeMap::new();
    // Of what is in it, by key.
    let mut ranks: HashMap<Vec<u8>, u64> = HashMap::new();
    let mut ordered = Ordered {
        is_complete: true,
        ..Ordered::default()
    };
    let mut has_more = false;
    loop {
        let found = store.search(search.clone()).await?;
        ordered.looked_at = ordered.looked_at.saturating_add(found.looked_at.max(1));
        for view in found.records {
            let at = (rank(view.changed_at_ms), view.key.to_bytes());
            if after.as_ref().is_some_and(|after| at <= *after) {
                continue;
            }
            // A store may show a record twice, and it may have changed in between.
            if let Some(before) = ranks.insert(at.1.clone(), at.0) {
                best.remove(&(before, at.1.clone()));
            }
            best.insert(at, view);
            if best.len() > limit {
                if let Some(((_, key), _)) = best.pop_last() {
                    ranks.remove(&key);
                }
                has_more = true;
            }
        }
        search.after = found.next;
        if search.after.is_none() {
            break;
        }
        if ordered.looked_at >= most {
            ordered.is_complete = false;
            break;
        }
    }
    if has_more {
        let last = best.last_key_value();
        ordered.next = last.map(|((rank, key), _)| {
            let mut token = vec![ORDERED];
            token.extend(rank.to_be_bytes());
            token.extend(key);
            token
        });
    }
    ordered.records = best.into_values().collect();
    Ok(ordered)
}

/// With this the message of an error begins that is about a [`Search::after`] which no such search has given.
pub const NO_PLACE: &str = "this is no place in a search";

/// The error itself.
pub(crate) fn no_place() -> StoreError {
    StoreError::Permanent(NO_PLACE.to_owned())
}

fn place(token: Vec<u8>) -> Result<(u64, Vec<u8>), StoreError> {
    let senseless = no_place;
    let (head, key) = token.split_at_checked(HEAD).ok_or_else(senseless)?;
    match head.split_first() {
        Some((&ORDERED, rank)) => {
            let rank = rank.try_into().map_err(|_| senseless())?;
            Ok((u64::from_be_bytes(rank), key.to_vec()))
        }
        _ => Err(senseless()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_id_is_a_hash_of_the_whole_key() {
        let key = |tenant: &str| LookupKey {
            tenant: tenant.into(),
            namespace: String::new(),
            origin: Origin::Client,
            key: "k".into(),
        };
        let id = log_id(&key("a"));
        assert_eq!(id.len(), 12);
        assert!(id.bytes().all(|b| b.is_ascii_hexdigit()));
        assert_ne!(id, log_id(&key("b")));
    }

    #[test]
    fn what_is_no_token_is_refused() {
        for token in [&b""[..], b"t1234567", b"x12345678", b"\0\0"] {
            assert!(place(token.to_vec()).is_err(), "{token:?}");
        }
        let token = [&b"t"[..], &7u64.to_be_bytes(), b"key"].concat();
        assert_eq!(place(token).unwrap(), (7, b"key".to_vec()));
    }
}
