//! Quotas: what one tenant may have of records, running executions and bytes.
//!
//! They concern new records only. Whatever was granted ends and is recorded, and is replayed; a key
//! that has a record already may be executed again where the table says so.

use crate::keys;
use crate::record::{Slot, State};
use idempotency_protocol::{Answer, Fault, FaultCode};
use std::collections::HashMap;

/// What there can be a quota of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quota {
    /// Executions that hold a key.
    Executions,
    /// Records.
    Records,
    /// Bytes of keys and answers.
    Bytes,
}

impl Quota {
    /// All of them.
    pub const ALL: [Quota; 3] = [Quota::Executions, Quota::Records, Quota::Bytes];

    /// In one word, for metrics.
    pub fn name(self) -> &'static str {
        match self {
            Quota::Executions => "executions",
            Quota::Records => "records",
            Quota::Bytes => "bytes",
        }
    }

    fn detail(self) -> String {
        format!("the tenant's quota of {} is used up", self.name())
    }

    /// The answer to who wants a new record when this is used up.
    pub fn refusal(self) -> Answer {
        Answer::Fault(Fault {
            code: FaultCode::Quota,
            detail: self.detail(),
        })
    }

    /// Which quota an answer says is used up, if it says so.
    pub fn refused(answer: &Answer) -> Option<Quota> {
        let Answer::Fault(fault) = answer else {
            return None;
        };
        let says = |quota: &Quota| fault.detail == quota.detail();
        let quota = || Quota::ALL.into_iter().find(says);
        (fault.code == FaultCode::Quota).then(quota).flatten()
    }
}

/// Limits of every tenant; `None` is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quotas {
    /// Executions that hold a key. One whose lease is over may count until it is swept.
    pub executions: Option<u64>,
    /// Records. One that has expired may count until it is swept.
    pub records: Option<u64>,
    /// Bytes of keys and answers, as the store keeps them; likewise.
    pub bytes: Option<u64>,
}

/// What one tenant has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TenantUse {
    /// Executions that hold a key.
    pub executions: u64,
    /// Records.
    pub records: u64,
    /// Bytes of keys and answers.
    pub bytes: u64,
}

impl TenantUse {
    /// What a slot costs its tenant; nothing if it holds only marks. `room`: the bytes that it takes
    /// beside its answer.
    pub fn of(slot: &Slot, room: usize) -> TenantUse {
        let Some(execution) = &slot.execution else {
            return TenantUse::default();
        };
        let answer = match &execution.state {
            State::Completed(outcome) | State::Settled(_, outcome) => outcome.size,
            _ => 0,
        };
        TenantUse {
            executions: u64::from(matches!(execution.state, State::Executing(_))),
            records: 1,
            bytes: u64::try_from(room)
                .unwrap_or(u64::MAX)
                .saturating_add(answer),
        }
    }
}

impl Quotas {
    /// Whether there is any.
    pub fn any(&self) -> bool {
        *self != Quotas::default()
    }

    /// Which quota leaves no room for a new record, if one does.
    pub fn used_up(&self, used: &TenantUse) -> Option<Quota> {
        let over = |quota: Option<u64>, used: u64| quota.is_some_and(|quota| used >= quota);
        [
            (Quota::Executions, over(self.executions, used.executions)),
            (Quota::Records, over(self.records, used.records)),
            (Quota::Bytes, over(self.bytes, used.bytes)),
        ]
        .into_iter()
        .find_map(|(quota, is_over)| is_over.then_some(quota))
    }
}

/// What all tenants have, for a backend that counts it in this process: [`Tenants::change`] with
/// every slot that it writes, [`Tenants::used_up`] before every acquire, and a new one, filled by
/// [`Tenants::add`], when quotas are set.
#[derive(Debug, Default)]
pub struct Tenants {
    quotas: Quotas,
    used: HashMap<String, TenantUse>,
}

impl Tenants {
    /// Nobody has anything yet. Without quotas nothing is counted.
    pub fn new(quotas: Quotas) -> Tenants {
        Tenants {
            quotas,
            used: HashMap::new(),
        }
    }

    /// Whether anything is counted: not without a quota.
    pub fn counts(&self) -> bool {
        self.quotas.any()
    }

    /// Which quota leaves this tenant no room for a new record, if one does: the
    /// [`Context::used_up`](crate::machine::Context::used_up) of an acquire.
    pub fn used_up(&self, tenant: &str) -> Option<Quota> {
        if !self.counts() {
            return None;
        }
        let used = self.used.get(tenant).copied().unwrap_or_default();
        self.quotas.used_up(&used)
    }

    /// What is under this key (`LookupKey::to_bytes`) is counted, too.
    pub fn add(&mut self, key: &[u8], used: TenantUse) {
        if let Some(tenant) = keys::tenant(key) {
            self.change(tenant, TenantUse::default(), used);
        }
    }

    /// One of the tenant's slots changes, from what it cost before ([`TenantUse::of`]) to what it
    /// costs now; nothing for a slot that is not there.
    pub fn change(&mut self, tenant: &str, before: TenantUse, after: TenantUse) {
        if !self.counts() || before == after {
            return;
        }
        let used = match self.used.get_mut(tenant) {
            Some(used) => used,
            None => self.used.entry(tenant.to_owned()).or_default(),
        };
        let moved = |used: u64, before, after| used.saturating_sub(before).saturating_add(after);
        used.executions = moved(used.executions, before.executions, after.executions);
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
        executions: 1,
        records: 1,
        bytes: 100,
    };
    const NONE: TenantUse = TenantUse {
        executions: 0,
        records: 0,
        bytes: 0,
    };

    #[test]
    fn each_quota_alone() {
        let quotas = |executions, records, bytes| Quotas {
            executions,
            records,
            bytes,
        };
        for (quotas, used_up) in [
            (quotas(None, None, None), None),
            (quotas(Some(2), Some(2), Some(101)), None),
            (quotas(Some(1), None, None), Some(Quota::Executions)),
            (quotas(None, Some(1), None), Some(Quota::Records)),
            (quotas(None, None, Some(100)), Some(Quota::Bytes)),
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
    fn a_refusal_tells_its_quota() {
        for quota in Quota::ALL {
            assert_eq!(Quota::refused(&quota.refusal()), Some(quota));
        }
        assert_eq!(Quota::refused(&Answer::Lost), None);
    }

    #[test]
    fn without_a_quota_nothing_is_counted() {
        let mut tenants = Tenants::default();
        tenants.change("a", NONE, ONE);
        assert!(tenants.used.is_empty());
    }
}
