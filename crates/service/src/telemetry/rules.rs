//! What acquires are answered, by the rule that protected the request.
//!
//! The gateway says the rule with each acquire. Names come from the gateways' configuration, but nothing here
//! relies on it: the first [`MAX_RULES`] names get series of their own, and all later ones share one.

use super::labels::ANSWERS;
use super::metrics::{ByAnswer, Register};
use prometheus::IntCounterVec;
use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

/// Rules with series of their own.
const MAX_RULES: usize = 64;
/// The label of all further ones.
const OTHER: &str = "other";

/// The counters of all rules.
pub(crate) struct Rules {
    of: IntCounterVec,
    known: RwLock<HashMap<Box<str>, Arc<ByAnswer>>>,
    other: Arc<ByAnswer>,
}

impl Rules {
    pub(super) fn new(make: &Register<'_>) -> Rules {
        let help = "Acquires by the rule that the gateway named, and by answer; the first 64 rules, then `other`.";
        let of = make.counters("rule_acquires_total", help, &["rule", "answer"]);
        Rules {
            other: Arc::new(ByAnswer::unseen(&of, OTHER)),
            known: RwLock::default(),
            of,
        }
    }

    /// The counters of one rule; `None` where the gateway named none.
    pub(crate) fn of(&self, rule: &str) -> Option<Arc<ByAnswer>> {
        if rule.is_empty() {
            return None;
        }
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(row) = known.get(rule) {
            return Some(Arc::clone(row));
        }
        let full = known.len() >= MAX_RULES;
        drop(known);
        if full {
            return Some(Arc::clone(&self.other));
        }
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        // Others may have come in between.
        if known.len() >= MAX_RULES && !known.contains_key(rule) {
            return Some(Arc::clone(&self.other));
        }
        let row = known
            .entry(rule.into())
            .or_insert_with(|| Arc::new(ByAnswer::unseen(&self.of, rule)));
        Some(Arc::clone(row))
    }

    /// Acquires by rule and answer, those that happened: for people.
    pub(crate) fn counts(&self) -> Vec<RuleCounts> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let mut rules: Vec<(String, Arc<ByAnswer>)> = known
            .iter()
            .map(|(rule, row)| (rule.to_string(), Arc::clone(row)))
            .collect();
        drop(known);
        rules.sort_by(|a, b| a.0.cmp(&b.0));
        rules.push((OTHER.to_owned(), Arc::clone(&self.other)));
        let counted = rules.into_iter().map(|(rule, row)| RuleCounts {
            rule,
            answers: ANSWERS
                .iter()
                .enumerate()
                .filter_map(|(place, answer)| Some((*answer, row.count(place)?)))
                .collect(),
        });
        counted.filter(|row| !row.answers.is_empty()).collect()
    }
}

/// What the acquires of one rule were answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RuleCounts {
    pub rule: String,
    /// Answers that were given at least once.
    pub answers: Vec<(&'static str, u64)>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use idempotency_protocol::Answer;
    use prometheus::Registry;

    #[test]
    fn the_sixty_fifth_rule_is_an_other() {
        let registry = Registry::new();
        let rules = Rules::new(&Register::into(&registry));
        assert!(rules.of("").is_none(), "an older gateway names none");
        for n in 0..MAX_RULES + 3 {
            let row = rules.of(&format!("rule-{n:03}"));
            row.unwrap().add(&Answer::Mismatch);
        }
        rules.of("rule-000").unwrap().add(&Answer::Mismatch);
        let counts = rules.counts();
        assert_eq!(counts.len(), MAX_RULES + 1);
        assert_eq!(counts[0].answers, [("mismatch", 2)]);
        let other = counts.last().unwrap();
        assert_eq!(
            (other.rule.as_str(), other.answers.as_slice()),
            (OTHER, &[("mismatch", 3)][..])
        );
    }
}
