//! The gap between an answer and its record. On Envoy there is none: the answer is held until its
//! outcome is recorded. Kong lets no filter hold a response, so there the record follows a few
//! milliseconds behind, and a duplicate that comes in between is told `in-flight`. Our clients do
//! what that answer says: they come again.

use std::collections::HashSet;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use idempotency_stack::{until, Host};

use crate::answer::Answer;
use crate::request::Request;

/// How long an outcome may be on its way to the service. After it, `in-flight` is the answer.
const GAP: Duration = Duration::from_secs(2);

/// Keys whose first execution this process has seen the answer of.
fn answered() -> &'static Mutex<HashSet<Vec<u8>>> {
    static ANSWERED: OnceLock<Mutex<HashSet<Vec<u8>>>> = OnceLock::new();
    ANSWERED.get_or_init(Mutex::default)
}

fn is_answered(key: &[u8]) -> bool {
    let answered = answered().lock().unwrap_or_else(PoisonError::into_inner);
    answered.contains(key)
}

fn is_problem(answer: &Answer) -> bool {
    answer.header("content-type").as_deref() == Some("application/problem+json")
}

/// Notes an answer to a request with a key. An upstream's own answer means that the outcome is on
/// its way.
pub(crate) fn note(request: &Request, answer: &Answer) {
    if !Host::chosen().is_kong() || is_problem(answer) {
        return;
    }
    if let Some(key) = request.key_value() {
        let mut answered = answered().lock().unwrap_or_else(PoisonError::into_inner);
        answered.insert(key.to_owned());
    }
}

/// Asks again, as long as the answer says that what was answered before is not recorded yet.
pub(crate) fn bridge<E>(
    request: &Request,
    mut ask: impl FnMut() -> Result<Answer, E>,
) -> Result<Answer, E> {
    let mut last = ask();
    let in_gap = |last: &Result<Answer, E>| {
        let in_flight = last
            .as_ref()
            .is_ok_and(|a| a.status == 409 && is_problem(a) && a.text().contains("in-flight"));
        in_flight && request.key_value().is_some_and(is_answered)
    };
    if Host::chosen().is_kong() && in_gap(&last) {
        until(GAP, || {
            last = ask();
            !in_gap(&last)
        });
    }
    last
}

/// Reads a state that may still be the one before the outcome was recorded.
pub(crate) fn settled(key: &str, mut read: impl FnMut() -> String) -> String {
    let mut state = read();
    if Host::chosen().is_kong() && state == "executing" && is_answered(key.as_bytes()) {
        until(GAP, || {
            state = read();
            state != "executing"
        });
    }
    state
}
