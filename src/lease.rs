//! The right to execute, and its renewal.

use crate::clock::Moment;
use crate::ids::IdMap;
use bytes::Bytes;
use idempotency_protocol::{Answer, LookupKey, Operation, Owner};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

/// The right of one execution to hold a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The record.
    pub key: Arc<LookupKey>,
    /// Token of this execution.
    pub owner: Owner,
    /// The fence of its grant; 0 where it has none.
    pub fence: u64,
    /// How long it lasts without renewal, in milliseconds.
    pub lease_ms: u64,
    /// When the call that got or renewed it was *sent*, as [`Moment::most_ns`]: the service's clock
    /// started no earlier.
    pub since_ns: u64,
}

impl Lease {
    /// The record and the fence that a request is forwarded with.
    pub fn sent(&self) -> (&LookupKey, u64) {
        (&self.key, self.fence)
    }

    /// When it is over, unless it is renewed.
    fn end_ns(&self) -> u64 {
        let lease_ns = self.lease_ms.saturating_mul(1_000_000);
        self.since_ns.saturating_add(lease_ns)
    }
}

/// Whether a grant comes too late to be forwarded: more than `lease − margin` has passed since its acquire
/// was sent. A clock that was set back meanwhile proves nothing, so it counts as too late.
pub fn is_too_late(sent: &Moment, now: &Moment, lease_ms: u64, margin_ms: u64) -> bool {
    let usable_ms = lease_ms.saturating_sub(margin_ms);
    let passed_ns = now.since(sent);
    passed_ns.is_none_or(|passed_ns| passed_ns >= usable_ms.saturating_mul(1_000_000))
}

#[derive(Debug)]
struct Tracked {
    lease: Lease,
    trace: Bytes,
    renewal_sent_ns: Option<u64>,
}

/// The leases of running executions; renewed from half of their time on.
#[derive(Debug, Default)]
pub struct Leases(IdMap<Owner, Box<Tracked>>);

impl Leases {
    /// Starts renewing, in the name of the request with this `traceparent`.
    pub fn track(&mut self, lease: Lease, trace: Bytes) {
        let tracked = Tracked {
            lease,
            trace,
            renewal_sent_ns: None,
        };
        self.0.insert(tracked.lease.owner, Box::new(tracked));
    }

    /// Stops renewing: the execution has ended.
    pub fn untrack(&mut self, owner: Owner) {
        self.0.remove(&owner);
    }

    /// The renewals that are due now ([`Moment::most_ns`]), at most so many, the ones whose lease ends
    /// first. Each is reported once, until [`Leases::renewed`].
    pub fn due(&mut self, now_ns: u64, most: usize) -> Vec<(Owner, Operation, Bytes)> {
        let is_due = |tracked: &&mut Box<Tracked>| {
            let half = tracked.lease.lease_ms.saturating_mul(500_000);
            let elapsed = now_ns.saturating_sub(tracked.lease.since_ns);
            tracked.renewal_sent_ns.is_none() && elapsed >= half
        };
        let mut due: Vec<_> = self.0.values_mut().filter(is_due).collect();
        let mut by_end = BinaryHeap::new();
        for (place, tracked) in (0u32..).zip(&due) {
            by_end.push(Reverse((tracked.lease.end_ns(), place)));
        }
        let mut renewals = Vec::new();
        while renewals.len() < most {
            let Some(Reverse((_, place))) = by_end.pop() else {
                break;
            };
            let Some(tracked) = due.get_mut(place as usize) else {
                break;
            };
            tracked.renewal_sent_ns = Some(now_ns);
            let lease = &tracked.lease;
            let renewal = Operation::Extend {
                key: LookupKey::clone(&lease.key),
                owner: lease.owner,
                lease_ms: lease.lease_ms,
            };
            renewals.push((lease.owner, renewal, tracked.trace.clone()));
        }
        renewals
    }

    /// The answer to a renewal; `None`: no answer, try again at the next tick. Returns false when
    /// the lease is lost.
    pub fn renewed(&mut self, owner: Owner, answer: Option<&Answer>) -> bool {
        let Some(tracked) = self.0.get_mut(&owner) else {
            return true;
        };
        let sent = tracked.renewal_sent_ns.take();
        match (answer, sent) {
            (Some(Answer::Extended { lease_ms }), Some(sent)) => {
                tracked.lease.since_ns = sent;
                tracked.lease.lease_ms = *lease_ms;
                true
            }
            (Some(Answer::Lost | Answer::Refused), _) => {
                self.untrack(owner);
                false
            }
            _ => true,
        }
    }

    /// How many executions are running.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing is running.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SteadyClock;
    use idempotency_protocol::Origin;

    fn lease(owner: u8) -> Lease {
        Lease {
            key: Arc::new(LookupKey {
                tenant: String::new(),
                namespace: String::new(),
                origin: Origin::Client,
                key: "k".into(),
            }),
            owner: Owner([owner; 16]),
            fence: 1,
            lease_ms: 1000,
            since_ns: 10_000_000_000,
        }
    }

    const MS: u64 = 1_000_000;

    #[test]
    fn a_grant_is_too_late_at_lease_minus_margin_and_once_the_clock_was_set_back() {
        let mut clock = SteadyClock::default();
        let start = 1_700_000_000_000 * MS;
        let sent = clock.look(start);
        let mut is_too_late = |wall_ns: u64, margin_ms: u64| {
            let now = clock.look(wall_ns);
            super::is_too_late(&sent, &now, 1000, margin_ms)
        };
        assert!(!is_too_late(start + 899 * MS, 100));
        assert!(is_too_late(start + 900 * MS, 100));
        assert!(
            is_too_late(start + 900 * MS, 1000),
            "a margin as long as the lease forwards none"
        );
        // Ever since, though the time of day is later than when it was sent.
        assert!(is_too_late(start + 500 * MS, 100));
        assert!(is_too_late(start + 501 * MS, 100));
    }

    #[test]
    fn renewed_from_half_of_its_time_on_once_per_answer() {
        let mut leases = Leases::default();
        let l = lease(1);
        let start = l.since_ns;
        leases.track(l.clone(), "its trace".into());
        assert!(leases.due(start + 499 * MS, 9).is_empty());
        let renewals = leases.due(start + 500 * MS, 9);
        assert_eq!(renewals.len(), 1);
        assert_eq!(renewals[0].2, "its trace");
        assert!(
            leases.due(start + 600 * MS, 9).is_empty(),
            "one renewal at a time"
        );
        // No answer: due again.
        assert!(leases.renewed(l.owner, None));
        assert_eq!(leases.due(start + 700 * MS, 9).len(), 1);
        // The new lease counts from the moment the renewal was sent.
        assert!(leases.renewed(l.owner, Some(&Answer::Extended { lease_ms: 1000 })));
        assert!(leases.due(start + 1199 * MS, 9).is_empty());
        assert_eq!(leases.due(start + 1200 * MS, 9).len(), 1);
        assert!(!leases.renewed(l.owner, Some(&Answer::Lost)));
        assert!(leases.is_empty());
    }

    #[test]
    fn where_not_all_have_room_the_ones_that_end_first_are_renewed() {
        let mut leases = Leases::default();
        let start = lease(1).since_ns;
        for (owner, age) in [(1, 0), (2, 2), (3, 1)] {
            let lease = Lease {
                since_ns: start - age * MS,
                ..lease(owner)
            };
            leases.track(lease, Bytes::new());
        }
        let mut renewed = || -> Vec<u8> {
            let due = leases.due(start + 500 * MS, 2);
            due.iter().map(|(owner, _, _)| owner.0[0]).collect()
        };
        let mut first = renewed();
        first.sort_unstable();
        assert_eq!(first, [2, 3]);
        assert_eq!(renewed(), [1]);
    }
}
