//! Quotas: what one tenant may have of records, running executions and bytes.
//!
//! They concern new records only. Whatever was granted ends and is recorded, and is replayed; a key
//! that has a record already may be executed again where the table says so.

use std::collections::HashMap;

/// Limits of every tenant; `None` is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quotas {
    /// Executions that hold a key. One whose lease is over counts until somebody notices.
    pub executing: Option<u64>,
    /// Records. One that has expired counts until it is swept.
    pub records: Option<u64>,
    /// Bytes of keys, records and answers; likewise.
    pub bytes: Option<u64>,
}

/// What one tenant has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TenantUse {
    /// Executions that hold a key.
    pub executing: u64,
    /// Records.
    pub records: u64,
    /// Bytes of keys, records and answers.
    pub bytes: u64,
}

impl Quotas {
    /// Whether there is any.
    pub fn any(&self) -> bool {
        *self != Quotas::default()
    }

    /// Which quota leaves no room for a new record, if one does.
    pub fn used_up(&self, used: &TenantUse) -> Option<&'static str> {
        let over = |quota: Option<u64>, used: u64| quota.is_some_and(|quota| used >= quota);
        if over(self.executing, used.executing) {
            Some("running executions")
        } else if over(self.records, used.records) {
            Some("records")
        } else if over(self.bytes, used.bytes) {
            Some("bytes")
        } else {
            None
        }
    }
}

/// What all tenants have, where it is counted.
#[derive(Debug, Default)]
pub(crate) struct Tenants {
    quotas: Quotas,
    used: HashMap<String, TenantUse>,
}

impl Tenants {
    pub fn new(quotas: Quotas) -> Tenants {
        Tenants {
            quotas,
            used: HashMap::new(),
        }
    }

    /// Nothing is counted without a quota.
    pub fn counts(&self) -> bool {
        self.quotas.any()
    }

    /// Which quota leaves this tenant no room for a new record, if one does.
    pub fn used_up(&self, tenant: &str) -> Option<&'static str> {
        let used = self.used.get(tenant).copied().unwrap_or_default();
        self.quotas.used_up(&used)
    }

    /// One of the tenant's slots changes.
    pub fn change(&mut self, tenant: &str, before: TenantUse, after: TenantUse) {
        if !self.counts() || before == after {
            return;
        }
        let used = match self.used.get_mut(tenant) {
            Some(used) => used,
            None => self.used.entry(tenant.to_owned()).or_default(),
        };
        let moved = |used: u64, before, after| used.saturating_sub(before).saturating_add(after);
        used.executing = moved(used.executing, before.executing, after.executing);
        used.records = moved(used.records, before.records, after.records);
        used.bytes = moved(used.bytes, before.bytes, after.bytes);
        // Tenants come and go.
        if *used == TenantUse::default() {
            self.used.remove(tenant);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: TenantUse = TenantUse {
        executing: 1,
        records: 1,
        bytes: 100,
    };
    const NONE: TenantUse = TenantUse {
        executing: 0,
        records: 0,
        bytes: 0,
    };

    #[test]
    fn each_quota_alone() {
        let quotas = |executing, records, bytes| Quotas {
            executing,
            records,
            bytes,
        };
        for (quotas, used_up) in [
            (quotas(None, None, None), None),
            (quotas(Some(2), Some(2), Some(101)), None),
            (quotas(Some(1), None, None), Some("running executions")),
            (quotas(None, Some(1), None), Some("records")),
            (quotas(None, None, Some(100)), Some("bytes")),
        ] {
            let mut tenants = Tenants::new(quotas);
            tenants.change("a", NONE, ONE);
            assert_eq!(tenants.used_up("a"), used_up, "{quotas:?}");
            assert_eq!(tenants.used_up("b"), None);
            tenants.change("a", ONE, NONE);
            assert_eq!(tenants.used_up("a"), None);
            assert!(tenants.used.is_empty());
        }
    }

    #[test]
    fn without_a_quota_nothing_is_counted() {
        let mut tenants = Tenants::default();
        tenants.change("a", NONE, ONE);
        assert!(tenants.used.is_empty());
    }
}
