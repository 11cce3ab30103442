//! The verdict in words.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::model::Verdict;

/// Violations that are told in full; the rest is counted.
const TOLD: usize = 20;

/// The summary of a run.
pub fn text(verdict: &Verdict) -> String {
    let mut text = String::new();
    let total: usize = verdict.operations.values().sum();
    let keys: usize = verdict.keys.values().sum();
    let faults: usize = verdict.faults.values().sum();
    let calm = verdict.calm;
    let _ = writeln!(
        text,
        "operations  {total}, {calm} of them far from any fault"
    );
    list(&mut text, &verdict.operations);
    let (executions, repeated) = (verdict.executions, verdict.repeated);
    let _ = writeln!(
        text,
        "executions  {executions}, {repeated} of them allowed repetitions"
    );
    let _ = writeln!(text, "faults      {faults}");
    list(&mut text, &verdict.faults);
    let (stalls, ms) = verdict.stalls;
    if stalls > 0 {
        let _ = writeln!(
            text,
            "stalls      {stalls}, {ms} ms of all parts together: this machine's own"
        );
    }
    let _ = writeln!(text, "keys        {keys}");
    list(&mut text, &verdict.keys);
    if !verdict.unknown.is_empty() {
        let _ = writeln!(text, "unknown because of");
        list(&mut text, &verdict.unknown);
    }
    if !verdict.orders.is_empty() {
        let _ = writeln!(text, "by the library, and beside it");
        list(&mut text, &verdict.orders);
    }
    let mut laws = BTreeMap::new();
    for violation in &verdict.violations {
        *laws.entry(format!("{:?}", violation.law)).or_default() += 1;
    }
    if verdict.violations.is_empty() {
        let _ = writeln!(text, "verdict     nothing was broken");
        return text;
    }
    let _ = writeln!(
        text,
        "verdict     BROKEN, {} times",
        verdict.violations.len()
    );
    list(&mut text, &laws);
    for violation in verdict.violations.iter().take(TOLD) {
        let _ = writeln!(text, "  {violation}");
    }
    let more = verdict.violations.len().saturating_sub(TOLD);
    if more > 0 {
        let _ = writeln!(text, "  and {more} more");
    }
    text
}

fn list(text: &mut String, counts: &BTreeMap<String, usize>) {
    for (name, count) in counts {
        let _ = writeln!(text, "  {count:>8}  {name}");
    }
}
