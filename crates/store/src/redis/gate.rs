//! Whether new records are granted at all: only to servers that were looked at and found fit.
//!
//! A record on a server that evicts is forgotten at some moment, and its key executes again. So a
//! server that is not trusted refuses grants as well as readiness. What was granted before still
//! ends and is recorded: that is the best that can be done for it.

use super::health::Distrust;
use idempotency_protocol::{Answer, Fault, FaultCode};
use std::sync::{Arc, PoisonError, RwLock};

/// The verdict of the last look that was answered.
pub(super) struct Gate(RwLock<Option<Arc<Distrust>>>);

impl Gate {
    /// Closed until the first look.
    pub fn new() -> Gate {
        let why = "Redis: it has not been looked at yet".to_owned();
        Gate(RwLock::new(Some(Arc::new(Distrust::unavailable(why)))))
    }

    /// Why nothing is granted now, if so.
    pub fn closed(&self) -> Option<Arc<Distrust>> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub fn set(&self, why: Option<&Distrust>) {
        let same = self.closed().as_deref() == why;
        if !same {
            let why = why.cloned().map(Arc::new);
            *self.0.write().unwrap_or_else(PoisonError::into_inner) = why;
        }
    }
}

/// The answers of a call that was told to grant nothing: the refused ones say why.
pub(super) fn explain(answers: &mut [Answer], why: &Distrust) {
    for answer in answers {
        match answer {
            Answer::Fault(fault) if fault.code == FaultCode::Capacity => {
                *answer = Answer::Fault(Fault {
                    code: why.code,
                    detail: format!("{}; nothing is granted until that has changed", why.why),
                });
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evicts() -> Distrust {
        Distrust::untrusted("evicts".into())
    }

    #[test]
    fn it_is_closed_until_the_first_look_and_as_the_last_one_says() {
        let gate = Gate::new();
        let code = gate.closed().map(|why| why.code);
        assert_eq!(code, Some(FaultCode::Unavailable));
        gate.set(None);
        assert!(gate.closed().is_none());
        gate.set(Some(&evicts()));
        assert_eq!(gate.closed().as_deref(), Some(&evicts()));
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
        explain(&mut answers, &evicts());
        assert!(matches!(&answers[0], Answer::Fault(f)
            if f.code == FaultCode::Untrusted && f.detail.starts_with("evicts")));
        assert_eq!(answers[1..], [Answer::Failed, fault(FaultCode::Internal)]);
    }
}
