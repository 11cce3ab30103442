//! Keys of records as bytes: [`LookupKey::to_bytes`], its reverse, and what listing needs. Their
//! order is that of pages: tenants and namespaces each stand together.

use crate::machine::{self, Context};
use crate::record::Slot;
use crate::store::{ListFilter, Page};
use idempotency_protocol::{LookupKey, Origin};

/// Longest page of a listing, in records.
pub const MAX_PAGE: usize = 1_000;

/// Most records that are looked at for one page: with a filter that matches little, a page is
/// short rather than late.
pub const MAX_LOOKED_AT: usize = 20_000;

/// Reads what [`LookupKey::to_bytes`] wrote; `None` if the bytes are something else.
pub fn from_bytes(bytes: &[u8]) -> Option<LookupKey> {
    let (tenant, rest) = part(bytes)?;
    let (namespace, rest) = part(rest)?;
    let (origin, key) = rest.split_first()?;
    Some(LookupKey {
        tenant,
        namespace,
        origin: match origin {
            0 => Origin::Client,
            1 => Origin::Derived,
            _ => return None,
        },
        key: std::str::from_utf8(key).ok()?.to_owned(),
    })
}

/// The tenant of a key, without reading the rest; `None` if the bytes are no key.
pub fn tenant(bytes: &[u8]) -> Option<&str> {
    let (len, rest) = bytes.split_first_chunk::<2>()?;
    let (text, _) = rest.split_at_checked(usize::from(u16::from_be_bytes(*len)))?;
    std::str::from_utf8(text).ok()
}

fn part(bytes: &[u8]) -> Option<(String, &[u8])> {
    let (len, rest) = bytes.split_first_chunk::<2>()?;
    let (text, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*len)))?;
    Some((std::str::from_utf8(text).ok()?.to_owned(), rest))
}

/// The longest prefix that the bytes of all keys which pass `filter` share: where to begin to look,
/// and where to end.
pub fn prefix(filter: &ListFilter) -> Vec<u8> {
    let mut out = Vec::new();
    let parts = [filter.tenant.as_deref(), filter.namespace.as_deref()];
    for part in parts.into_iter().map_while(|part| part) {
        out.extend_from_slice(&u16::try_from(part.len()).unwrap_or(u16::MAX).to_be_bytes());
        out.extend_from_slice(part.as_bytes());
    }
    out
}

/// Fills one page from slots that are offered in key order, from the first after
/// [`ListFilter::after`] on: ask [`PageBuilder::is_full`], [offer](PageBuilder::offer), and so on
/// until it is full or no key with the [prefix] is left.
pub struct PageBuilder<'a> {
    filter: &'a ListFilter,
    limit: usize,
    looked_at: usize,
    last: Option<Vec<u8>>,
    page: Page,
}

impl<'a> PageBuilder<'a> {
    /// An empty page.
    pub fn new(filter: &'a ListFilter) -> PageBuilder<'a> {
        let limit = filter.limit.clamp(1, MAX_PAGE);
        PageBuilder {
            filter,
            limit,
            looked_at: 0,
            last: None,
            page: Page::default(),
        }
    }

    /// No more slots are wanted. Ask only when there is one more to offer: a full page that was
    /// asked has a next one.
    pub fn is_full(&mut self) -> bool {
        let full = self.page.records.len() >= self.limit || self.looked_at >= MAX_LOOKED_AT;
        if full {
            self.page.next = self.last.take();
        }
        full
    }

    /// Takes the slot if it holds a record now that passes the filter. `bytes` is its key.
    pub fn offer(&mut self, bytes: &[u8], slot: &Slot, context: &Context) {
        self.looked_at += 1;
        self.last = Some(bytes.to_vec());
        let Some(key) = from_bytes(bytes) else { return };
        let Some(view) = machine::view(Some(slot), context, &key) else {
            return;
        };
        let filter = self.filter;
        if filter.tenant.as_ref().is_none_or(|t| *t == key.tenant)
            && filter
                .namespace
                .as_ref()
                .is_none_or(|n| *n == key.namespace)
            && filter.state.is_none_or(|s| s == view.state)
        {
            self.page.records.push(view);
        }
    }

    /// The page, as far as it was filled.
    pub fn finish(self) -> Page {
        self.page
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_survives_the_round_trip_and_damage_is_noticed() {
        for origin in [Origin::Client, Origin::Derived] {
            let key = LookupKey {
                tenant: "tenant-ü".into(),
                namespace: String::new(),
                origin,
                key: "k/1".into(),
            };
            let bytes = key.to_bytes();
            assert_eq!(from_bytes(&bytes), Some(key));
            for cut in 0..bytes.len() - 3 {
                assert_eq!(from_bytes(&bytes[..cut]), None, "cut at {cut}");
            }
        }
    }

    #[test]
    fn a_tenant_s_prefix_does_not_cover_a_longer_name() {
        let filter = ListFilter {
            tenant: Some("a".into()),
            ..ListFilter::default()
        };
        let key = |tenant: &str| LookupKey {
            tenant: tenant.into(),
            namespace: String::new(),
            origin: Origin::Client,
            key: "b".into(),
        };
        assert!(key("a").to_bytes().starts_with(&prefix(&filter)));
        assert!(!key("ab").to_bytes().starts_with(&prefix(&filter)));
    }
}
