//! The history of a row, also where a service of the release before has changed the row since it was written.
//!
//! Such a service writes the columns that it knows and leaves the history as it is. What only grows in a
//! history still holds then, as long as it is the same record; what the service did beside it is told from
//! the row.

use super::row::{micros, unsigned, Damaged};
use crate::history::{History, Kinds};
use crate::record::{Execution, State};
use bytes::Bytes;
use idempotency_protocol::{About, AttemptKind};
use serde_json::{Map, Value};
use std::sync::Arc;
use std::time::SystemTime;

/// The columns of a history, as they are in the row.
#[derive(Debug, Default)]
pub(super) struct Kept<'a> {
    pub bytes: Option<&'a [u8]>,
    pub version: Option<i64>,
    pub fence: Option<i64>,
    pub since: Option<SystemTime>,
}

impl Kept<'_> {
    /// Puts the history into the execution of a slot with this version and fence; `about` is the description
    /// that is beside it, if that was read.
    pub fn recall(
        &self,
        version: i64,
        fence: i64,
        about: Option<Arc<About>>,
        execution: &mut Execution,
    ) -> Result<(), Damaged> {
        let (Some(bytes), Some(since)) = (self.bytes, self.since) else {
            execution.history = History::of_old(execution.created_at);
            return Ok(());
        };
        if micros(since) != execution.created_at {
            // That record was forgotten; this one was made by a service that knows no histories.
            execution.history = History::of_old(execution.created_at);
            return Ok(());
        }
        let bytes = Bytes::copy_from_slice(bytes);
        execution.history =
            History::decode(bytes).ok_or(Damaged("a history of another version"))?;
        execution.history.about = about;
        if self.version != Some(version) {
            self.catch_up(fence, execution);
        }
        Ok(())
    }

    /// A service that knows no histories has changed the record since.
    fn catch_up(&self, fence: i64, execution: &mut Execution) {
        let history = &mut execution.history;
        // It notes no reason of a failure.
        history.effects = true;
        if self.fence != Some(fence) {
            history.kinds = history.kinds.with(AttemptKind::Gateway);
            history.newest = AttemptKind::Gateway;
            // Fences are times, unless clocks are set back.
            history.started_at = unsigned(fence);
            history.about = None;
        }
        match (&execution.state, execution.owner) {
            // An operator has decided, and has looked.
            (_, None) => history.doubt = false,
            // It fails an attempt whatever became of those before it.
            (State::Failed, Some(_)) if history.doubt => execution.state = State::Unknown,
            _ => {}
        }
    }
}

/// The history of a new record for the statement that makes it, which puts the time of the grant into the bytes
/// 5 to 12.
pub(super) fn of_new(kind: AttemptKind) -> Vec<u8> {
    History {
        kinds: Kinds::of(kind),
        newest: kind,
        ..History::default()
    }
    .encode()
}

/// The history's bytes, without the description, which has a column of its own.
pub(super) fn encode(history: &History) -> Vec<u8> {
    match history.about {
        None => history.encode(),
        Some(_) => History {
            about: None,
            ..history.clone()
        }
        .encode(),
    }
}

const NAMES: [&str; 7] = [
    "method",
    "path",
    "rule",
    "gateway",
    "request_id",
    "trace_id",
    "client",
];

/// The description as it is searched by: what is empty is left out.
pub(super) fn describe(about: Option<&About>) -> Option<Value> {
    let about = about?;
    let mut members = Map::new();
    for (name, field) in NAMES.into_iter().zip(about.fields()) {
        if !field.is_empty() {
            // JSON in PostgreSQL holds every character but this one.
            members.insert(name.to_owned(), field.replace('\0', "\u{fffd}").into());
        }
    }
    Some(Value::Object(members))
}

/// The reverse of [`describe`]. What is not understood is left out: nothing is decided by it.
pub(super) fn described(value: Option<Value>) -> Option<Arc<About>> {
    let Some(Value::Object(mut members)) = value else {
        return None;
    };
    let mut about = About::default();
    for (name, field) in NAMES.into_iter().zip(about.fields_mut()) {
        if let Some(Value::String(text)) = members.remove(name) {
            *field = text;
        }
    }
    Some(Arc::new(about))
}

#[cfg(test)]
mod tests {
    use super::*;
    use idempotency_protocol::{Fingerprint, Owner, Retention, Scheme};

    const SINCE: u64 = 1_700_000_000_000_000;

    fn execution(state: State, history: History) -> Execution {
        Execution {
            owner: Some(Owner([1; 16])),
            fingerprint: Fingerprint {
                scheme: Scheme(1),
                digest: [1; 32],
            },
            attempt: 1,
            retention: Retention {
                ttl_ms: 1,
                unknown_ttl_ms: 1,
            },
            created_at: SINCE,
            changed_at: SINCE,
            state,
            history,
        }
    }

    fn doubtful() -> History {
        History {
            doubt: true,
            ..History::first(AttemptKind::Guard, None, SINCE)
        }
    }

    /// What is recalled of a record in that state, whose history was written at version 7 and fence 5.
    fn recalled(history: &History, version: i64, fence: i64, before: Execution) -> Execution {
        let bytes = encode(history);
        let kept = Kept {
            bytes: Some(&bytes),
            version: Some(7),
            fence: Some(5),
            since: Some(super::super::row::time(SINCE)),
        };
        let mut after = before;
        kept.recall(version, fence, None, &mut after).unwrap();
        after
    }

    #[test]
    fn the_statement_that_makes_a_record_puts_the_time_where_it_belongs() {
        for kind in [AttemptKind::Gateway, AttemptKind::Transaction] {
            let mut bytes = of_new(kind);
            bytes.splice(4..12, SINCE.to_be_bytes());
            let first = History::first(kind, None, SINCE);
            assert_eq!(History::decode(bytes.into()), Some(first));
        }
    }

    #[test]
    fn a_history_that_is_up_to_date_is_taken_as_it_is() {
        let before = execution(State::Failed, History::default());
        let after = recalled(&doubtful(), 7, 5, before);
        assert_eq!(after.history, doubtful());
        assert_eq!(after.state, State::Failed);
    }

    #[test]
    fn what_only_grows_holds_over_a_change_by_a_service_that_knows_no_histories() {
        let before = execution(State::Unknown, History::default());
        let after = recalled(&doubtful(), 8, 5, before).history;
        assert!(after.doubt && after.effects, "{after:?}");
        assert_eq!(after.newest, AttemptKind::Guard);
        // A new attempt was that service's, hence a gateway's.
        let before = execution(State::Unknown, History::default());
        let after = recalled(&doubtful(), 8, 6, before).history;
        assert_eq!((after.newest, after.started_at), (AttemptKind::Gateway, 6));
        let both = Kinds::of(AttemptKind::Guard).with(AttemptKind::Gateway);
        assert_eq!(after.kinds, both);
    }

    #[test]
    fn what_such_a_service_failed_stays_unknown_where_an_earlier_attempt_may_have_been_done() {
        let failed = || execution(State::Failed, History::default());
        assert_eq!(recalled(&doubtful(), 8, 5, failed()).state, State::Unknown);
        let certain = History::first(AttemptKind::Gateway, None, SINCE);
        assert_eq!(recalled(&certain, 8, 5, failed()).state, State::Failed);
        let by_operator = Execution {
            owner: None,
            ..failed()
        };
        let after = recalled(&doubtful(), 8, 5, by_operator);
        assert_eq!(after.state, State::Failed);
        assert!(!after.history.doubt);
    }

    #[test]
    fn a_record_that_was_made_anew_has_no_past() {
        let anew = Execution {
            created_at: SINCE + 1,
            ..execution(State::Unknown, History::default())
        };
        let after = recalled(&doubtful(), 8, 6, anew).history;
        assert_eq!(after, History::of_old(SINCE + 1));
    }

    #[test]
    fn a_description_survives_the_round_trip() {
        let about = About {
            path: "/a\u{0}b\"".into(),
            client: "ü".into(),
            ..About::default()
        };
        let value = describe(Some(&about));
        let text = value.as_ref().map(Value::to_string).unwrap_or_default();
        assert_eq!(text, "{\"client\":\"ü\",\"path\":\"/a\u{fffd}b\\\"\"}");
        let back = described(value).unwrap();
        assert_eq!(back.path, "/a\u{fffd}b\"");
        assert_eq!(back.client, about.client);
        // What a later release adds is no harm.
        let more = serde_json::json!({"path": "/", "colour": "red", "rule": 7});
        assert_eq!(described(Some(more)).unwrap().path, "/");
        assert_eq!(described(None), None);
    }
}
