//! Counters of what was turned away: connections, callers, requests.

use super::metrics::head;
use crate::api::door::Foreign;
use idempotency_store::Quota;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// How an authentication failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AuthFailure {
    /// There was no token.
    NoToken,
    /// A token that nobody configured.
    UnknownToken,
    /// A token of another role.
    WrongRole,
}

impl AuthFailure {
    /// Its name in metrics and logs.
    pub(crate) fn name(self) -> &'static str {
        match self {
            AuthFailure::NoToken => "no-token",
            AuthFailure::UnknownToken => "unknown-token",
            AuthFailure::WrongRole => "wrong-role",
        }
    }
}

/// Why the service closed a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Closed {
    /// The head of a request did not come to its end in time.
    SlowHead,
    /// Nothing was asked for too long.
    Idle,
    /// Answers were not taken in time.
    NotRead,
    /// A request was not answered in time.
    SlowRequest,
    /// Without a token, it asked for too much at a time.
    Greedy,
    /// Without a token, it gave way to a newer connection.
    GaveWay,
}

impl Closed {
    const ALL: [Closed; 6] = [
        Closed::SlowHead,
        Closed::Idle,
        Closed::NotRead,
        Closed::SlowRequest,
        Closed::Greedy,
        Closed::GaveWay,
    ];

    /// Its name in metrics.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Closed::SlowHead => "slow-head",
            Closed::Idle => "idle",
            Closed::NotRead => "not-read",
            Closed::SlowRequest => "slow-request",
            Closed::Greedy => "greedy",
            Closed::GaveWay => "gave-way",
        }
    }
}

/// Counters with one label of a closed set.
struct Labelled<const N: usize>([AtomicU64; N]);

impl<const N: usize> Labelled<N> {
    fn new() -> Labelled<N> {
        Labelled(std::array::from_fn(|_| AtomicU64::new(0)))
    }

    fn add(&self, place: usize) {
        if let Some(counter) = self.0.get(place) {
            counter.fetch_add(1, Relaxed);
        }
    }

    fn write(&self, out: &mut String, name: &str, help: &str, values: [&str; N]) {
        let name = format!("idempotencyd_{name}_total");
        head(out, &name, "counter", help);
        for (value, counter) in values.into_iter().zip(&self.0) {
            let n = counter.load(Relaxed);
            let _ = writeln!(out, "{name}{{reason=\"{value}\"}} {n}");
        }
    }
}

/// All of them.
pub(crate) struct Refusals {
    closed: Labelled<6>,
    auth_failures: Labelled<3>,
    foreign: Labelled<2>,
    quotas: Labelled<3>,
}

impl Refusals {
    pub(super) fn new() -> Refusals {
        Refusals {
            closed: Labelled::new(),
            auth_failures: Labelled::new(),
            foreign: Labelled::new(),
            quotas: Labelled::new(),
        }
    }

    /// The service closed a connection.
    pub(crate) fn closed(&self, why: Closed) {
        self.closed.add(why as usize);
    }

    /// An authentication failed.
    pub(crate) fn auth_failed(&self, how: AuthFailure) {
        self.auth_failures.add(how as usize);
    }

    /// A request without a valid token was not looked at.
    pub(crate) fn foreign(&self, why: Foreign) {
        self.foreign.add(why as usize);
    }

    /// A new key was refused because a quota of its tenant is used up.
    pub(crate) fn quota(&self, quota: Quota) {
        self.quotas.add(quota as usize);
    }

    pub(super) fn write(&self, out: &mut String) {
        let help = "Connections that the service closed.";
        let reasons = Closed::ALL.map(Closed::name);
        self.closed.write(out, "connections_closed", help, reasons);
        let help = "Requests whose sender was refused.";
        let reasons = [
            AuthFailure::NoToken,
            AuthFailure::UnknownToken,
            AuthFailure::WrongRole,
        ];
        let reasons = reasons.map(AuthFailure::name);
        self.auth_failures
            .write(out, "auth_failures", help, reasons);
        let help = "Requests without a valid token for another host or from a foreign page.";
        let reasons = [Foreign::Host, Foreign::Origin].map(Foreign::name);
        self.foreign.write(out, "foreign_requests", help, reasons);
        let help = "New keys refused because a quota of their tenant is used up.";
        let reasons = Quota::ALL.map(Quota::name);
        self.quotas.write(out, "quota_refusals", help, reasons);
    }
}
