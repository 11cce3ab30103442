//! Counters of what was turned away: connections, callers, requests.

use super::metrics::Register;
use crate::api::door::Foreign;
use idempotency_store::Quota;
use prometheus::IntCounter;

/// How an authentication failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AuthFailure {
    /// There was no token.
    NoToken,
    /// A token that nobody configured.
    UnknownToken,
    /// A token or a certificate of another role.
    WrongRole,
    /// There was no certificate, where one is required.
    NoCertificate,
    /// A certificate whose end has come while its connection was open.
    CertificateExpired,
    /// A certificate that has no role.
    CertificateWithoutRole,
    /// A certificate of one role and a token of another one.
    CertificateAndToken,
}

impl AuthFailure {
    /// Its name in metrics and logs.
    pub(crate) fn name(self) -> &'static str {
        match self {
            AuthFailure::NoToken => "no-token",
            AuthFailure::UnknownToken => "unknown-token",
            AuthFailure::WrongRole => "wrong-role",
            AuthFailure::NoCertificate => "no-certificate",
            AuthFailure::CertificateExpired => "certificate-expired",
            AuthFailure::CertificateWithoutRole => "certificate-without-role",
            AuthFailure::CertificateAndToken => "certificate-and-token",
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

/// Counters with one label of a closed set: every series is there from the start, so that a rise from nothing is
/// seen as a rise.
pub(super) struct Labelled<const N: usize>([IntCounter; N]);

impl<const N: usize> Labelled<N> {
    pub(super) fn new(
        make: &Register<'_>,
        name: &str,
        help: &str,
        values: [&str; N],
    ) -> Labelled<N> {
        Labelled::by(make, name, help, "reason", values)
    }

    /// With a label of another name.
    pub(super) fn by(
        make: &Register<'_>,
        name: &str,
        help: &str,
        label: &str,
        values: [&str; N],
    ) -> Labelled<N> {
        let counters = make.counters(name, help, &[label]);
        Labelled(values.map(|value| counters.with_label_values(&[value])))
    }

    fn sum(&self) -> u64 {
        self.0.iter().map(IntCounter::get).sum()
    }

    pub(super) fn add(&self, place: usize) {
        if let Some(counter) = self.0.get(place) {
            counter.inc();
        }
    }
}

/// All of them.
pub(crate) struct Refusals {
    closed: Labelled<6>,
    auth_failures: Labelled<7>,
    foreign: Labelled<2>,
    quotas: Labelled<3>,
}

impl Refusals {
    pub(super) fn new(make: &Register<'_>) -> Refusals {
        let failures = [
            AuthFailure::NoToken,
            AuthFailure::UnknownToken,
            AuthFailure::WrongRole,
            AuthFailure::NoCertificate,
            AuthFailure::CertificateExpired,
            AuthFailure::CertificateWithoutRole,
            AuthFailure::CertificateAndToken,
        ];
        Refusals {
            closed: Labelled::new(
                make,
                "connections_closed_total",
                "Connections that the service closed.",
                Closed::ALL.map(Closed::name),
            ),
            auth_failures: Labelled::new(
                make,
                "auth_failures_total",
                "Requests whose sender was refused.",
                failures.map(AuthFailure::name),
            ),
            foreign: Labelled::new(
                make,
                "foreign_requests_total",
                "Requests without a valid token for another host or from a foreign page.",
                [Foreign::Host, Foreign::Origin].map(Foreign::name),
            ),
            quotas: Labelled::new(
                make,
                "quota_refusals_total",
                "New keys refused because a quota of their tenant is used up.",
                Quota::ALL.map(Quota::name),
            ),
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

    /// Failed authentications, of whatever kind.
    pub(crate) fn all_auth_failures(&self) -> u64 {
        self.auth_failures.sum()
    }

    /// A request without a valid token was not looked at.
    pub(crate) fn foreign(&self, why: Foreign) {
        self.foreign.add(why as usize);
    }

    /// A new key was refused because a quota of its tenant is used up.
    pub(crate) fn quota(&self, quota: Quota) {
        self.quotas.add(quota as usize);
    }
}
