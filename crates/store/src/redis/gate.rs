//! Whether new records are granted at all: only to servers that were looked at and found fit.
//!
//! A record on a server that evicts is forgotten at some moment, and its key executes again. So a
//! server that is not trusted refuses grants as well as readiness. What was granted before still
//! ends and is recorded: that is the best that can be done for it.

use idempotency_protocol::{Answer, Fault, FaultCode};
use std::sync::{Arc, PoisonError, RwLock};

/// The verdict of the last look that was answered.
pub(super) struct Gate(RwLock<Option<Arc<str>>>);

impl Gate {
    /// Closed until the first look.
    pub fn new() -> Gate {
        Gate(RwLock::new(Some("it has not been looked at yet".into())))
    }

    /// Why nothing is granted now, if so.
    pub fn closed(&self) -> Option<Arc<str>> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub fn set(&self, why: Option<&str>) {
        let same = self.closed().as_deref() == why;
        if !same {
            *self.0.write().unwrap_or_else(PoisonError::into_inner) = why.map(Into::into);
        }
    }
}

/// The answers of a call that was told to grant nothing: the refused ones say why.
pub(super) fn explain(answers: &mut [Answer], why: &str) {
    for answer in answers {
        match answer {
            Answer::Fault(fault) if fault.code == FaultCode::Capacity => {
                *answer = Answer::Fault(Fault {
                    code: FaultCode::Unavailable,
                    detail: format!("{why}; nothing is granted until that has changed"),
                });
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_closed_until_the_first_look_and_as_the_last_one_says() {
        let gate = Gate::new();
        assert!(gate.closed().is_some());
        gate.set(None);
        assert!(gate.closed().is_none());
        gate.set(Some("evicts"));
        assert_eq!(gate.closed().as_deref(), Some("evicts"));
    }

    #[test]
    fn only_refused_grants_are_explained() {
        let fault = |code| {
            Answer::Fault(Fault {
                code,
                detail: "before".into(),
            })
        };
        let mut answers = [
            fault(FaultCode::Capacity),
            Answer::Failed,
            fault(FaultCode::Internal),
        ];
        explain(&mut answers, "evicts");
        assert!(matches!(&answers[0], Answer::Fault(f)
            if f.code == FaultCode::Unavailable && f.detail.starts_with("evicts")));
        assert_eq!(answers[1..], [Answer::Failed, fault(FaultCode::Internal)]);
    }
}
