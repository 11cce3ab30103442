//! Records as operators see them: opened, and searched for by what stands in the place of keys and tenants.
//!
//! The store can search by tenant, namespace, key, state and time. Everything else (beginnings of keys, log ids,
//! request and trace ids, paths, rules) is in the sealed description, so this process opens what the store found, and
//! looks itself.
//!
//! While there may be records in clear, a listing by tenant has two parts, one after the other; the first byte of the
//! place where it goes on says in which it is.

use super::description::Description;
use super::index::{is_marker, is_place};
use super::Sealed;
use crate::search::{no_place, Found, Search};
use crate::store::{ListFilter, Page, RecordView, StoreError};
use idempotency_protocol::LookupKey;

/// A part of a listing.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ListingPart {
    Sealed,
    Clear,
}

impl ListingPart {
    fn byte(self) -> u8 {
        match self {
            ListingPart::Sealed => 0,
            ListingPart::Clear => 1,
        }
    }

    /// Where a listing goes on: the part, and the place in it.
    fn read(after: Option<Vec<u8>>) -> Result<(ListingPart, Option<Vec<u8>>), StoreError> {
        let Some(mut after) = after else {
            return Ok((ListingPart::Sealed, None));
        };
        let part = match after.first() {
            Some(0) => ListingPart::Sealed,
            Some(1) => ListingPart::Clear,
            _ => return Err(no_place()),
        };
        after.remove(0);
        Ok((part, (!after.is_empty()).then_some(after)))
    }

    fn write(self, place: &[u8]) -> Vec<u8> {
        [&[self.byte()], place].concat()
    }

    /// Where to go on: in this part, or in the next one.
    fn next(self, place: Option<Vec<u8>>, has_clear: bool) -> Option<Vec<u8>> {
        match place {
            Some(place) => Some(self.write(&place)),
            None if self == ListingPart::Sealed && has_clear => Some(ListingPart::Clear.write(&[])),
            None => None,
        }
    }
}

impl Sealed {
    /// A record, under the key by which it was asked for.
    pub(super) fn named(&self, key: &LookupKey, view: RecordView) -> RecordView {
        let is_place_itself = is_place(key);
        let opened = self.opened(view);
        match is_place_itself {
            true => opened,
            false => RecordView {
                key: key.clone(),
                ..opened
            },
        }
    }

    /// A record with its key and its description, if they can be opened. Otherwise its key is its place.
    pub(super) fn opened(&self, view: RecordView) -> RecordView {
        if !is_place(&view.key) {
            return view;
        }
        let keys = self.sealer.keys();
        let about = view.about.as_deref();
        let opened = about.and_then(|about| Description::open(&keys, &view.key, about));
        let opened = opened.and_then(|opened| self.noted(opened).ok());
        let (key, about) = match opened {
            Some(description) => (description.key, description.about.map(Box::new)),
            None => (view.key, None),
        };
        RecordView { key, about, ..view }
    }

    pub(super) async fn list_opened(&self, filter: ListFilter) -> Result<Page, StoreError> {
        let (part, after) = ListingPart::read(filter.after)?;
        let has_clear = self.has_clear() && filter.tenant.is_some();
        let tenant = match part {
            ListingPart::Sealed => {
                let keys = self.sealer.keys();
                filter.tenant.map(|tenant| keys.index.tenant(&tenant))
            }
            ListingPart::Clear => filter.tenant,
        };
        let inner = ListFilter {
            tenant,
            after,
            ..filter
        };
        let page = self.inner.list(inner).await?;
        Ok(Page {
            records: page
                .records
                .into_iter()
                .filter(|view| !is_marker(&view.key))
                .map(|view| self.opened(view))
                .collect(),
            next: part.next(page.next, has_clear),
        })
    }

    pub(super) async fn search_opened(&self, search: Search) -> Result<Found, StoreError> {
        let (part, after) = ListingPart::read(search.after.clone())?;
        let by_name = search.tenant.is_some() || search.key.is_some();
        let has_clear = self.has_clear() && by_name;
        let inner = match part {
            ListingPart::Sealed => self.search_for_places(&search, after),
            ListingPart::Clear => Search {
                after,
                ..search.clone()
            },
        };
        let mut found = self.inner.search(inner).await?;
        let wanted = |view: &RecordView| match is_place(&view.key) {
            // It cannot be opened: the store has compared what it could.
            true => without_names(&search).matches(view),
            false => search.matches(view),
        };
        found.records = found
            .records
            .into_iter()
            .filter(|view| !is_marker(&view.key))
            .map(|view| self.opened(view))
            .filter(wanted)
            .collect();
        found.next = part.next(found.next, has_clear);
        Ok(found)
    }

    /// What the store can look for.
    fn search_for_places(&self, search: &Search, after: Option<Vec<u8>>) -> Search {
        let keys = self.sealer.keys();
        Search {
            tenant: search
                .tenant
                .as_ref()
                .map(|tenant| keys.index.tenant(tenant)),
            namespace: search.namespace.clone(),
            key: search.key.as_ref().map(|key| keys.index.key(key)),
            state: search.state,
            changed_until_ms: search.changed_until_ms,
            changed_from_ms: search.changed_from_ms,
            after,
            limit: search.limit,
            ..Search::default()
        }
    }
}

/// The same search without what the store has looked for already.
fn without_names(search: &Search) -> Search {
    Search {
        tenant: None,
        key: None,
        ..search.clone()
    }
}
