//! What an upstream's answers mean for their keys, and how a configuration says it.

use super::kinds::{words, Kind, Words};
use super::reader::{Faults, Field};
use crate::json::Value;

/// What an upstream's answer means for its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutcomeClass {
    /// Stored and replayed.
    Completed,
    /// Provably not done: a retry executes.
    Failed,
    /// May have been done.
    Unknown,
}

/// What an upstream's answer means, by status.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcomes {
    /// 503 with `Retry-After`; checked first.
    pub unavailable_with_retry_after: OutcomeClass,
    /// Exact statuses, checked next.
    pub statuses: Vec<(u16, OutcomeClass)>,
    /// By class: index 0 is 2xx, 3 is 5xx; checked last.
    pub classes: [OutcomeClass; 4],
}

impl Outcomes {
    /// What an answer with this status means. Statuses outside 200–599 are unknown.
    pub fn class(&self, status: u16, has_retry_after: bool) -> OutcomeClass {
        if status == 503 && has_retry_after {
            return self.unavailable_with_retry_after;
        }
        if let Some((_, class)) = self.statuses.iter().find(|(s, _)| *s == status) {
            return *class;
        }
        match status {
            200..=299 => self.classes[0],
            300..=399 => self.classes[1],
            400..=499 => self.classes[2],
            500..=599 => self.classes[3],
            _ => OutcomeClass::Unknown,
        }
    }

    /// What an answer means that the gateway made itself without sending anything. An error is one. A success, or a
    /// redirect that is no order to send the same request elsewhere, may be the work itself, done by a filter: unknown,
    /// unless the configuration names its status, or says that its class may be retried.
    pub fn class_of_local(&self, status: u16) -> OutcomeClass {
        let named = self.statuses.iter().find(|(s, _)| *s == status);
        match (status, named) {
            (400.., _) => OutcomeClass::Failed,
            (_, Some((_, class))) => *class,
            _ => match self.class(status, false) {
                OutcomeClass::Failed => OutcomeClass::Failed,
                OutcomeClass::Completed | OutcomeClass::Unknown => OutcomeClass::Unknown,
            },
        }
    }
}

/// SPEC: a redirect that is to be followed with the same request (307, 308) and 4xx that say "try again, differently
/// or later" are not kept; 5xx may have had effects.
pub(super) fn default_outcomes() -> Outcomes {
    let again = [307, 308, 401, 403, 407, 408, 421, 423, 425, 429];
    Outcomes {
        statuses: again.map(|status| (status, OutcomeClass::Failed)).to_vec(),
        unavailable_with_retry_after: OutcomeClass::Failed,
        classes: [
            OutcomeClass::Completed,
            OutcomeClass::Completed,
            OutcomeClass::Completed,
            OutcomeClass::Unknown,
        ],
    }
}

/// Statuses and what they mean, written over status by status.
pub(super) struct Meanings;

impl Kind<Outcomes> for Meanings {
    fn read(&self, field: &Field<'_>, into: &mut Outcomes, faults: &mut Faults) {
        read(field, into, faults);
    }
}

fn read(field: &Field<'_>, outcomes: &mut Outcomes, faults: &mut Faults) {
    if let Value::String(_) = field.value {
        match words!["default" = false, "all" = true].find(field, faults) {
            Some(false) => *outcomes = default_outcomes(),
            Some(true) => {
                *outcomes = Outcomes {
                    statuses: Vec::new(),
                    unavailable_with_retry_after: OutcomeClass::Completed,
                    classes: [OutcomeClass::Completed; 4],
                }
            }
            None => {}
        }
        return;
    }
    let Value::Object(members) = field.value else {
        faults.add(&field.path, "must be \"default\", \"all\" or an object");
        return;
    };
    let classes = words![
        "completed" = OutcomeClass::Completed,
        "failed" = OutcomeClass::Failed,
        "unknown" = OutcomeClass::Unknown,
    ];
    let refined = members.iter().any(|(name, _)| name == "503+retry-after");
    for (name, value) in members {
        let field = Field {
            value,
            path: format!("{}.{name}", field.path),
        };
        let [two, three, four, five] = &mut outcomes.classes;
        let slot = match name.as_str() {
            "2xx" => two,
            "3xx" => three,
            "4xx" => four,
            "5xx" => five,
            "503+retry-after" => &mut outcomes.unavailable_with_retry_after,
            status => {
                let status = status
                    .parse::<u16>()
                    .ok()
                    .filter(|s| (200..=599).contains(s));
                let Some(status) = status.filter(|_| name.len() == 3) else {
                    faults.add(
                        &field.path,
                        "must be a status (\"200\" to \"599\"), \"2xx\" to \"5xx\" or \
                         \"503+retry-after\"",
                    );
                    continue;
                };
                let Some(class) = classes.find(&field, faults) else {
                    continue;
                };
                outcomes.statuses.retain(|(known, _)| *known != status);
                outcomes.statuses.push((status, class));
                if status == 503 && !refined {
                    outcomes.unavailable_with_retry_after = class;
                }
                continue;
            }
        };
        if let Some(class) = classes.find(&field, faults) {
            *slot = class;
        }
    }
    outcomes.statuses.sort_by_key(|(status, _)| *status);
}
