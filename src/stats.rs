//! What the filter counts. Names are stable: dashboards hang on them. They are names of metrics to
//! Prometheus as they are (letters, digits, underscores): Kong replaces nothing but colons, and one
//! name that Prometheus does not take loses the whole page.

use crate::call::FailureReason;
use crate::host::MetricKind;
use idempotency_core::problem::Problem;

/// A counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Counter {
    /// A grant was forwarded.
    Executed,
    /// A stored response was replayed.
    Replayed,
    /// A request had to wait for the first execution.
    Waited,
    /// A request was forwarded without protection: the service gave no answer.
    PassedUnprotected,
    /// A grant came too late to be forwarded.
    GrantExpired,
    /// A request went on under the grant of a gateway of ours before this one.
    Relayed,
    /// An outcome was stored.
    Completed,
    /// A failed execution freed its key.
    Failed,
    /// An execution ended unknown.
    Unknown,
    /// An outcome could not be stored: no answer from the service.
    CompleteUnanswered,
    /// An outcome could not be stored: the service refused it or knew another owner.
    CompleteRefused,
    /// An outcome was stored late: at first it could not be.
    CompleteLate,
    /// A lease was renewed.
    LeaseRenewed,
    /// A lease was lost while its execution was still running.
    LeaseLost,
    /// A settlement was given up: the outbox was full or its time was over.
    OutboxDropped,
    /// A settlement was taken into the outbox. (In Kong, the gauge tells what the worker said that
    /// spoke last; the difference of these two counters is exact.)
    OutboxEntered,
    /// A settlement left the outbox: it was answered, or given up.
    OutboxLeft,
    /// Kong: a protected request has begun. (What is under way in all workers is this without the
    /// ended ones, and what is in the outbox: `kong/reload.sh` waits until it is nothing.)
    ProtectedBegun,
    /// Kong: a protected request is over, its settlement in the outbox.
    ProtectedEnded,
    /// A callout to the service failed.
    CalloutFailed,
    /// The same, by reason.
    CalloutFailedBy(FailureReason),
    /// The service refused a message of the newest version, and got it again in the version before.
    OlderService,
    /// A problem was answered.
    Problem(Problem),
    /// Observe mode: a problem would have been answered.
    Observed(Problem),
    /// Observe mode: a replay would have been answered.
    ObservedReplay,
    /// Observe mode: the request would have been executed.
    ObservedExecution,
}

impl Counter {
    /// Every counter.
    pub fn all() -> impl Iterator<Item = Counter> {
        const SINGLE: [Counter; 27] = [
            Counter::Executed,
            Counter::Replayed,
            Counter::Waited,
            Counter::PassedUnprotected,
            Counter::GrantExpired,
            Counter::Relayed,
            Counter::Completed,
            Counter::Failed,
            Counter::Unknown,
            Counter::CompleteUnanswered,
            Counter::CompleteRefused,
            Counter::CompleteLate,
            Counter::LeaseRenewed,
            Counter::LeaseLost,
            Counter::OutboxDropped,
            Counter::OutboxEntered,
            Counter::OutboxLeft,
            Counter::ProtectedBegun,
            Counter::ProtectedEnded,
            Counter::CalloutFailed,
            Counter::CalloutFailedBy(FailureReason::NotSent),
            Counter::CalloutFailedBy(FailureReason::Unanswered),
            Counter::CalloutFailedBy(FailureReason::Status),
            Counter::CalloutFailedBy(FailureReason::Undecodable),
            Counter::OlderService,
            Counter::ObservedReplay,
            Counter::ObservedExecution,
        ];
        let problems = Problem::ALL.into_iter();
        let problems = problems.flat_map(|p| [Counter::Problem(p), Counter::Observed(p)]);
        SINGLE.into_iter().chain(problems)
    }

    /// The counter's name below the host's own prefix.
    pub fn name(self) -> String {
        let name = match self {
            Counter::Executed => "executed",
            Counter::Replayed => "replayed",
            Counter::Waited => "waited",
            Counter::PassedUnprotected => "passed_unprotected",
            Counter::GrantExpired => "grant_expired",
            Counter::Relayed => "relayed",
            Counter::Completed => "completed",
            Counter::Failed => "failed",
            Counter::Unknown => "unknown",
            Counter::CompleteUnanswered => "complete_unanswered",
            Counter::CompleteRefused => "complete_refused",
            Counter::CompleteLate => "complete_late",
            Counter::LeaseRenewed => "lease_renewed",
            Counter::LeaseLost => "lease_lost",
            Counter::OutboxDropped => "outbox_dropped",
            Counter::OutboxEntered => "outbox_entered",
            Counter::OutboxLeft => "outbox_left",
            Counter::ProtectedBegun => "protected_begun",
            Counter::ProtectedEnded => "protected_ended",
            Counter::CalloutFailed => "callout_failed",
            Counter::CalloutFailedBy(FailureReason::NotSent) => "callout_failed_not_sent",
            Counter::CalloutFailedBy(FailureReason::Unanswered) => "callout_failed_unanswered",
            Counter::CalloutFailedBy(FailureReason::Status) => "callout_failed_status",
            Counter::CalloutFailedBy(FailureReason::Undecodable) => "callout_failed_undecodable",
            Counter::OlderService => "older_service",
            Counter::ObservedReplay => "observed_replay",
            Counter::ObservedExecution => "observed_execution",
            Counter::Problem(p) => return format!("idempotency_problem_{}", underscored(p)),
            Counter::Observed(p) => return format!("idempotency_observed_{}", underscored(p)),
        };
        format!("idempotency_{name}")
    }
}

/// What became of a request, by rule: counters that have a rule's name in theirs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It was executed under a grant.
    Executed,
    /// It got a stored answer.
    Replayed,
    /// It was refused, and not executed.
    Refused,
    /// It was forwarded without protection.
    Unprotected,
    /// It would have been executed.
    WouldExecute,
    /// It would have got a stored answer.
    WouldReplay,
    /// It would have been refused.
    WouldRefuse,
}

impl Fate {
    /// Every one of them.
    pub const ALL: [Fate; 7] = [
        Fate::Executed,
        Fate::Replayed,
        Fate::Refused,
        Fate::Unprotected,
        Fate::WouldExecute,
        Fate::WouldReplay,
        Fate::WouldRefuse,
    ];

    /// What a counter says of the request that it counts.
    pub fn of(counter: Counter) -> Option<Fate> {
        Some(match counter {
            Counter::Executed => Fate::Executed,
            Counter::Replayed => Fate::Replayed,
            // It was executed, and is counted as that.
            Counter::Problem(Problem::OutcomeUnrecorded) => return None,
            Counter::Problem(_) => Fate::Refused,
            Counter::PassedUnprotected => Fate::Unprotected,
            Counter::ObservedExecution => Fate::WouldExecute,
            Counter::ObservedReplay => Fate::WouldReplay,
            Counter::Observed(_) => Fate::WouldRefuse,
            _ => return None,
        })
    }

    fn name(self) -> &'static str {
        match self {
            Fate::Executed => "executed",
            Fate::Replayed => "replayed",
            Fate::Refused => "refused",
            Fate::Unprotected => "unprotected",
            Fate::WouldExecute => "would_execute",
            Fate::WouldReplay => "would_replay",
            Fate::WouldRefuse => "would_refuse",
        }
    }

    /// The counter of one rule. Hosts know no labels: both are in the name, and the shipped configurations
    /// (`stats_tags` of `envoy.yaml`, `label_patterns` of `idempotency.meta.json`) make labels of them.
    pub fn counter(self, rule: &str) -> String {
        format!("idempotency_requests_outcome_{}_rule_{rule}", self.name())
    }
}

/// Most rules that have counters of their own; what other rules do is counted for [`OTHER_RULES`] together.
pub const MAX_RULES: usize = 32;
/// The name that stands for all rules above [`MAX_RULES`].
pub const OTHER_RULES: &str = "other";
/// Longest name of a rule in the name of a metric.
const MAX_RULE_NAME: usize = 40;

/// A rule's name as a part of a metric's: lower-case letters, digits and underscores.
pub fn rule_label(name: &str) -> String {
    let plain = |c: char| match c.to_ascii_lowercase() {
        c if c.is_ascii_alphanumeric() => c,
        _ => '_',
    };
    name.chars().take(MAX_RULE_NAME).map(plain).collect()
}

fn underscored(problem: Problem) -> String {
    problem.name().replace('-', "_")
}

/// Histogram of callout times in microseconds.
pub const CALLOUT_TIME: &str = "idempotency_callout_us";
/// Gauge of operations that wait to be delivered without a client waiting for them.
pub const OUTBOX_SIZE: &str = "idempotency_outbox";
/// Histogram of operations in one callout.
pub const CALLOUT_OPERATIONS: &str = "idempotency_callout_operations";
/// Gauge of operations that wait for a callout.
pub const QUEUE_SIZE: &str = "idempotency_queued";

/// Every metric that is no counter.
pub const OTHERS: [(MetricKind, &str); 4] = [
    (MetricKind::Histogram, CALLOUT_TIME),
    (MetricKind::Gauge, OUTBOX_SIZE),
    (MetricKind::Histogram, CALLOUT_OPERATIONS),
    (MetricKind::Gauge, QUEUE_SIZE),
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// A new counter does not compile here until it has a number; then it must be among all.
    fn number(counter: Counter) -> u32 {
        match counter {
            Counter::Executed => 0,
            Counter::Replayed => 1,
            Counter::Waited => 2,
            Counter::PassedUnprotected => 3,
            Counter::GrantExpired => 4,
            Counter::Completed => 5,
            Counter::Failed => 6,
            Counter::Unknown => 7,
            Counter::CompleteUnanswered => 8,
            Counter::CompleteRefused => 9,
            Counter::LeaseRenewed => 10,
            Counter::LeaseLost => 11,
            Counter::OutboxDropped => 12,
            Counter::CalloutFailed => 13,
            Counter::CalloutFailedBy(_) => 22,
            Counter::ObservedReplay => 14,
            Counter::ObservedExecution => 15,
            Counter::OutboxEntered => 16,
            Counter::OutboxLeft => 17,
            Counter::ProtectedBegun => 18,
            Counter::ProtectedEnded => 19,
            Counter::Problem(_) => 20,
            Counter::Observed(_) => 21,
            Counter::OlderService => 23,
            Counter::Relayed => 24,
            Counter::CompleteLate => 25,
        }
    }

    /// <https://prometheus.io/docs/concepts/data_model/>: and no colon, which is for rules.
    #[test]
    fn every_name_is_one_to_prometheus() {
        let counters = Counter::all().map(Counter::name);
        let others = OTHERS.iter().map(|(_, name)| (*name).to_owned());
        for name in counters.chain(others) {
            let fine = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
            assert!(name.bytes().all(fine), "{name}");
        }
    }

    #[test]
    fn every_counter_is_among_all_once() {
        let numbers: BTreeSet<u32> = Counter::all().map(number).collect();
        assert!(numbers.into_iter().eq(0..26));
        let names: BTreeSet<String> = Counter::all().map(Counter::name).collect();
        assert_eq!(names.len(), Counter::all().count());
        assert_eq!(names.len(), 27 + 2 * Problem::ALL.len());
    }
}
