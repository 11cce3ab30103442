//! What an upstream's answers mean for their keys, and how a configuration says it.

use super::kinds::{words, ValueKind, Words};
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

/// Which answers: a status (200 to 599) or the hundreds of one (2 to 5); and whether only those with
/// `Retry-After`.
type Name = (u16, bool);

/// What an upstream's answer means, by status.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcomes {
    /// In order, so that equal meanings are equal.
    meanings: Vec<(Name, OutcomeClass)>,
}

impl Outcomes {
    /// What an answer with this status means: by the most specific name. A status is more specific than
    /// its hundreds, and either is with `Retry-After`. Statuses outside 200–599 are unknown.
    pub fn class(&self, status: u16, has_retry_after: bool) -> OutcomeClass {
        if !(200..=599).contains(&status) {
            return OutcomeClass::Unknown;
        }
        let hundreds = status / 100;
        let names = [
            (status, true),
            (status, false),
            (hundreds, true),
            (hundreds, false),
        ];
        let mut names = names
            .into_iter()
            .filter(|(_, later)| has_retry_after || !later);
        let class = |name: Name| self.meanings.iter().find(|(known, _)| *known == name);
        let found = names.find_map(class);
        found.map_or(OutcomeClass::Unknown, |(_, class)| *class)
    }

    /// What is said without `Retry-After` is said of answers with it, too.
    fn set(&mut self, name: Name, class: OutcomeClass) {
        let (status, retry_after) = name;
        self.meanings
            .retain(|((s, r), _)| *s != status || retry_after && !r);
        let at = self.meanings.partition_point(|(known, _)| *known < name);
        self.meanings.insert(at, (name, class));
    }

    fn of_hundreds(classes: [OutcomeClass; 4]) -> Outcomes {
        let meanings = (2..).zip(classes);
        Outcomes {
            meanings: meanings.map(|(n, class)| ((n, false), class)).collect(),
        }
    }

    /// What an answer means that the gateway made itself without sending anything. An error is one. A success, or a
    /// redirect that is no order to send the same request elsewhere, may be the work itself, done by a filter: unknown,
    /// unless the configuration names its status, or says that its class may be retried.
    pub fn class_of_local(&self, status: u16) -> OutcomeClass {
        let named = self
            .meanings
            .iter()
            .find(|(name, _)| *name == (status, false));
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
/// or later" are not kept, nor are 409 and 503 that say when to come again; other 5xx may have had effects.
pub(super) fn default_outcomes() -> Outcomes {
    use OutcomeClass::{Completed, Failed, Unknown};
    let mut outcomes = Outcomes::of_hundreds([Completed, Completed, Completed, Unknown]);
    for status in [307, 308, 401, 403, 407, 408, 421, 423, 425, 429] {
        outcomes.set((status, false), Failed);
    }
    for status in [409, 503] {
        outcomes.set((status, true), Failed);
    }
    outcomes
}

/// Statuses and what they mean, written over status by status.
pub(super) struct Meanings;

impl ValueKind<Outcomes> for Meanings {
    fn read(&self, field: &Field<'_>, into: &mut Outcomes, faults: &mut Faults) {
        read(field, into, faults);
    }
}

fn read(field: &Field<'_>, outcomes: &mut Outcomes, faults: &mut Faults) {
    if let Value::String(_) = field.value {
        match words!["default" = false, "all" = true].find(field, faults) {
            Some(false) => *outcomes = default_outcomes(),
            Some(true) => *outcomes = Outcomes::of_hundreds([OutcomeClass::Completed; 4]),
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
    // In this order, since the second wins.
    for refined in [false, true] {
        for (text, value) in members {
            let field = Field {
                value,
                path: format!("{}.{text}", field.path),
            };
            let Some(name) = name(text) else {
                if !refined {
                    let message =
                        "must be a status (\"200\" to \"599\") or \"2xx\" to \"5xx\", with or \
                                   without \"+retry-after\"";
                    faults.add(&field.path, message);
                }
                continue;
            };
            if name.1 != refined {
                continue;
            }
            if let Some(class) = classes.find(&field, faults) {
                outcomes.set(name, class);
            }
        }
    }
}

/// `"409"`, `"4xx"`, `"409+retry-after"`, `"4xx+retry-after"`.
fn name(text: &str) -> Option<Name> {
    let bare = text.strip_suffix("+retry-after");
    let status = bare.unwrap_or(text);
    let status = match (status.strip_suffix("xx"), status.len()) {
        (_, length) if length != 3 => return None,
        (Some(hundreds), _) => hundreds.parse().ok().filter(|n| (2..=5).contains(n))?,
        (None, _) => status.parse().ok().filter(|n| (200..=599).contains(n))?,
    };
    Some((status, bare.is_some()))
}
