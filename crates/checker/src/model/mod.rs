//! The pure checker: from a history to a verdict. No clock, no files, no network.
//!
//! A key is a tenant and an idempotency key. For each, its operations, executions and record are
//! compared with what the design allows:
//!
//! - [`executions`]: at most one, unless the one before ended `failed` or the rule allows a retry;
//! - [`answers`]: every answer is the right one, and none contradicts another;
//! - [`finals`]: when all is quiet, nothing is locked, and the record tells the same story.
//!
//! What depends on time or chance is allowed only where [`doubt`] finds the reason in the history:
//! a fault, a client that left, an upstream that failed, a machine that stood still.

mod answers;
mod doubt;
mod executions;
mod faults;
mod finals;
mod index;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use crate::history::Event;
use index::Index;

/// How long effects of a healed fault may be met: calls that were under way run into their
/// timeouts, connections are made anew.
const AFTERMATH: u64 = 2 * crate::clock::SECOND;

/// The same after the machine's own stalls.
const AFTER_STALL: u64 = crate::clock::SECOND / 2;

/// How long a settlement may take that no client waits for.
const SETTLING: u64 = crate::clock::SECOND;

/// Something that the design does not allow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which promise is broken.
    pub law: Law,
    /// The caller, if it concerns one key.
    pub tenant: String,
    /// The idempotency key, if it concerns one.
    pub key: String,
    /// What happened.
    pub what: String,
}

/// The promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Law {
    /// The files belong together and are whole.
    History,
    /// An upstream executes at most once per key, unless a retry is allowed.
    AtMostOnce,
    /// Fences and attempts grow per key.
    Fences,
    /// Every answer of an execution is the same, byte for byte.
    SameBytes,
    /// Nobody gets the answer to another key, tenant or payload.
    OwnAnswer,
    /// What a client saw is never contradicted.
    NoContradiction,
    /// 422 if and only if the payload differs.
    Mismatch,
    /// A key is locked only while somebody may execute.
    Locked,
    /// An outcome is unknown only where something explains it.
    Unknown,
    /// Refusals and broken connections only where something explains them.
    Available,
    /// The record, when all is quiet, tells the same story.
    FinalState,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            law,
            tenant,
            key,
            what,
        } = self;
        write!(f, "{law:?}: {tenant}/{key}: {what}")
    }
}

/// What the checker found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Everything that is not allowed.
    pub violations: Vec<Violation>,
    /// Operations by how they ended.
    pub operations: BTreeMap<String, usize>,
    /// All executions.
    pub executions: usize,
    /// Executions of keys that were executed before, as a rule or an answer allows.
    pub repeated: usize,
    /// Faults by what was done to what.
    pub faults: BTreeMap<String, usize>,
    /// The machine's own stalls, and their sum in milliseconds.
    pub stalls: (usize, u64),
    /// Keys by the state of their record at the end.
    pub keys: BTreeMap<String, usize>,
    /// Operations that no fault can have touched.
    pub calm: usize,
    /// Unknown records at the end, by what explains them.
    pub unknown: BTreeMap<String, usize>,
    /// What was told of orders, and by what: see [`crate::orders`].
    pub orders: BTreeMap<String, usize>,
}

/// Checks a history.
pub fn check(events: &[Event]) -> Verdict {
    let mut verdict = Verdict::default();
    let Some(index) = Index::new(events, &mut verdict.violations) else {
        return verdict;
    };
    index.count(&mut verdict);
    for key in index.keys.values() {
        executions::check(&index, key, &mut verdict);
        answers::check(&index, key, &mut verdict);
        finals::check(&index, key, &mut verdict);
    }
    verdict
}
