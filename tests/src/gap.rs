//! The gap between an answer and its record. On Envoy there is none: the answer is held until its
//! outcome is recorded. Kong lets no filter hold a response, so there the record follows a few
//! milliseconds behind, and a duplicate that comes in between is told `in-flight`. Our clients do
//! what that answer says: they come again.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use idempotency_stack::{until, Host, Stack};

use crate::answer::Answer;
use crate::request::Request;

/// How long an outcome may be on its way to the service. After it, `in-flight` is the answer.
const GAP: Duration = Duration::from_secs(2);

/// What this process has seen the answer of: keys, and whole requests for keys that are not in
/// `Idempotency-Key`.
fn answered_ones() -> MutexGuard<'static, HashSet<Vec<u8>>> {
    static ANSWERED: OnceLock<Mutex<HashSet<Vec<u8>>>> = OnceLock::new();
    let answered = ANSWERED.get_or_init(Mutex::default);
    answered.lock().unwrap_or_else(PoisonError::into_inner)
}

fn names(request: &Request) -> [Vec<u8>; 2] {
    let key = request.key_value().unwrap_or_default();
    let bare = key
        .strip_prefix(b"\"")
        .and_then(|rest| rest.strip_suffix(b"\""));
    [bare.unwrap_or(key).to_owned(), request.bytes()]
}

fn is_answered(request: &Request) -> bool {
    let answered = answered_ones();
    let [key, all] = names(request);
    (!key.is_empty() && answered.contains(&key)) || answered.contains(&all)
}

fn is_problem(answer: &Answer) -> bool {
    answer.header("content-type").as_deref() == Some("application/problem+json")
}

/// Waits until what was answered under this key is on record, for clients that are more than a
/// [`Request`]. On Envoy it is, already.
///
/// # Panics
///
/// If the service does not answer.
pub fn recorded(stack: &Stack, key: &str) {
    answered_ones().insert(key.as_bytes().to_owned());
    crate::record_state(stack, key);
}

/// Notes an answer. An upstream's own one means that the outcome is on its way.
pub(crate) fn note(request: &Request, answer: &Answer) {
    if Host::chosen().is_kong() && !is_problem(answer) {
        answered_ones().extend(names(request).into_iter().filter(|name| !name.is_empty()));
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
        in_flight && is_answered(request)
    };
    if Host::chosen().is_kong() && in_gap(&last) {
        until(GAP, || {
            last = ask();
            !in_gap(&last)
        });
    }
    if let Ok(answer) = &last {
        note(request, answer);
    }
    last
}

/// Reads a state that may still be the one before the outcome was recorded.
pub(crate) fn settled(key: &str, mut read: impl FnMut() -> String) -> String {
    let mut state = read();
    let known = || answered_ones().contains(key.as_bytes());
    if Host::chosen().is_kong() && state == "executing" && known() {
        until(GAP, || {
            state = read();
            state != "executing"
        });
    }
    state
}
