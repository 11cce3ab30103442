//! JSON of the operators' API.

use super::problem::Problem;
use crate::redact::log_id;
use crate::validate;
use idempotency_protocol::{self as protocol, LookupKey, Origin};
use idempotency_store::history::PastEnd;
use idempotency_store::{AttemptView, RecordState, RecordView};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// Who made a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum KeyOrigin {
    /// The client sent it.
    #[default]
    Client,
    /// The gateway derived it.
    Derived,
}

impl From<KeyOrigin> for Origin {
    fn from(origin: KeyOrigin) -> Origin {
        match origin {
            KeyOrigin::Client => Origin::Client,
            KeyOrigin::Derived => Origin::Derived,
        }
    }
}

/// State of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// An execution holds the key.
    Executing,
    /// Done; the outcome is stored.
    Completed,
    /// Provably not done; a retry executes.
    Failed,
    /// May have been done.
    Unknown,
}

impl From<RecordState> for State {
    fn from(state: RecordState) -> State {
        match state {
            RecordState::Executing => State::Executing,
            RecordState::Completed => State::Completed,
            RecordState::Failed => State::Failed,
            RecordState::Unknown => State::Unknown,
        }
    }
}

impl From<State> for RecordState {
    fn from(state: State) -> RecordState {
        match state {
            State::Executing => RecordState::Executing,
            State::Completed => RecordState::Completed,
            State::Failed => RecordState::Failed,
            State::Unknown => RecordState::Unknown,
        }
    }
}

/// The parts of a lookup key, as query parameters; others take them in with `flatten`, and are
/// the ones that refuse unknown fields.
#[derive(Clone, Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct KeyQuery {
    /// The tenant; empty for rules with global scope.
    #[serde(default)]
    #[param(default = "")]
    pub tenant: String,
    /// The namespace of the rule.
    #[serde(default)]
    #[param(default = "")]
    pub namespace: String,
    /// The idempotency key itself, without quotes.
    pub key: String,
    /// Who made the key.
    #[serde(default)]
    #[param(inline, default = "client")]
    pub origin: KeyOrigin,
}

impl KeyQuery {
    /// The key as the store knows it, within its bounds.
    pub(crate) fn check(self) -> Result<LookupKey, Problem> {
        let key = LookupKey {
            tenant: self.tenant,
            namespace: self.namespace,
            origin: self.origin.into(),
            key: self.key,
        };
        validate::key(&key).map_err(Problem::bad_request)?;
        Ok(key)
    }
}

/// One record without its body.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Record {
    /// The tenant; empty for rules with global scope.
    pub tenant: String,
    /// The namespace of the rule.
    pub namespace: String,
    /// Who made the key.
    pub origin: KeyOrigin,
    /// The idempotency key.
    pub key: String,
    /// What stands for this key in logs.
    pub log_id: String,
    /// Its state.
    pub state: State,
    /// Changes with every change of the record; send it back with a change.
    pub version: u64,
    /// Fence of the newest execution.
    pub fence: u64,
    /// Number of the newest execution, 1 for the first.
    pub attempt: u32,
    /// The first digits of the owner of the newest execution, which tell two owners apart; null where an operator
    /// has decided.
    #[serde(default)]
    pub owner: Option<String>,
    /// Status of the stored response or tombstone.
    pub status: Option<u16>,
    /// Size of the stored body.
    pub body_bytes: Option<u64>,
    /// Completed, but there is nothing to replay.
    pub tombstone: bool,
    /// When the key was first granted, milliseconds since the Unix epoch.
    pub created_at_ms: u64,
    /// When the record entered its state, milliseconds since the Unix epoch.
    pub changed_at_ms: u64,
    /// What is left of the lease, while executing (0: over).
    pub lease_left_ms: Option<u64>,
    /// When the record is forgotten, milliseconds since the Unix epoch; null while executing.
    pub expires_at_ms: Option<u64>,
    /// What the record says of the request of the newest execution.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub about: Option<About>,
    /// The executions that are remembered one by one, oldest first; the last one is the newest.
    #[serde(default)]
    pub attempts: Vec<Attempt>,
}

/// A request, for people. What is not known is left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct About {
    /// Its method.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub method: String,
    /// Its path, without the query.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub path: String,
    /// The rule that protected it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub rule: String,
    /// The gateway, or the program that uses the library.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub gateway: String,
    /// Its id.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub request_id: String,
    /// Its trace id.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub trace_id: String,
    /// Who asked.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub client: String,
}

impl From<protocol::About> for About {
    fn from(about: protocol::About) -> About {
        let protocol::About {
            method,
            path,
            rule,
            gateway,
            request_id,
            trace_id,
            client,
        } = about;
        About {
            method,
            path,
            rule,
            gateway,
            request_id,
            trace_id,
            client,
        }
    }
}

/// Who runs an execution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AttemptKind {
    /// A gateway.
    Gateway,
    /// A program that uses the library.
    Guard,
    /// A transaction of the database that holds the record, too.
    Transaction,
    /// A gateway, through another gateway that redeemed its proof.
    Relayed,
}

/// How an execution ended that was followed by another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AttemptEnd {
    /// Provably not done, or its answer may be retried.
    Failed,
    /// Nobody knows.
    Unknown,
}

/// One execution.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Attempt {
    /// 1 for the first one.
    pub number: u32,
    /// Who ran it.
    pub kind: AttemptKind,
    /// When it was granted, milliseconds since the Unix epoch.
    pub started_at_ms: u64,
    /// How it ended; null for the newest one, whose end is the state of the record.
    pub end: Option<AttemptEnd>,
    /// When its end was recorded, milliseconds since the Unix epoch.
    pub ended_at_ms: Option<u64>,
}

impl From<AttemptView> for Attempt {
    fn from(view: AttemptView) -> Attempt {
        Attempt {
            number: view.number,
            kind: match view.kind {
                protocol::AttemptKind::Gateway => AttemptKind::Gateway,
                protocol::AttemptKind::Guard => AttemptKind::Guard,
                protocol::AttemptKind::Transaction => AttemptKind::Transaction,
                protocol::AttemptKind::Relayed => AttemptKind::Relayed,
            },
            started_at_ms: view.started_at_ms,
            end: view.end.map(|(end, _)| match end {
                PastEnd::Failed => AttemptEnd::Failed,
                PastEnd::Unknown => AttemptEnd::Unknown,
            }),
            ended_at_ms: view.end.map(|(_, at)| at),
        }
    }
}

impl From<RecordView> for Record {
    fn from(view: RecordView) -> Record {
        Record {
            log_id: log_id(&view.key),
            tenant: view.key.tenant,
            namespace: view.key.namespace,
            origin: match view.key.origin {
                Origin::Client => KeyOrigin::Client,
                Origin::Derived => KeyOrigin::Derived,
            },
            key: view.key.key,
            state: view.state.into(),
            version: view.version,
            fence: view.fence,
            attempt: view.attempt,
            owner: view.owner,
            status: view.status,
            body_bytes: view.body_bytes,
            tombstone: view.tombstone,
            created_at_ms: view.created_at_ms,
            changed_at_ms: view.changed_at_ms,
            lease_left_ms: view.lease_left_ms,
            expires_at_ms: view.expires_at_ms,
            about: view.about.map(|about| (*about).into()),
            attempts: view.attempts.into_iter().map(Attempt::from).collect(),
        }
    }
}

/// One page of records, in key order.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Records {
    /// The records.
    pub records: Vec<Record>,
    /// Pass as `after` for the next page; null at the end.
    pub next: Option<String>,
    /// How many records a search has looked at for this page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub looked_at: Option<usize>,
    /// A sorted list ended before it had looked at every record: its order is that of those it has looked at.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub incomplete: bool,
}

/// What is stored for a completed record, and replayed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StoredAnswer {
    /// Status.
    pub status: u16,
    /// Done, but there is nothing to replay: why. Then there are no headers and no body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tombstone: Option<TombstoneReason>,
    /// Headers, in order: pairs of name and value. What is not UTF-8 in them is replaced by U+FFFD.
    #[serde(default)]
    #[schema(value_type = Vec<Vec<String>>)]
    pub headers: Vec<(String, String)>,
    /// Body, if it is text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// Body, if it is not UTF-8: hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_hex: Option<String>,
}

/// Why there is nothing to replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TombstoneReason {
    /// The response was larger than what is captured.
    TooLarge,
    /// The response had trailers, which a replay cannot carry.
    Trailers,
    /// The store was above its high-water mark.
    Capacity,
    /// The response must not be stored, or an operator has none.
    NotStorable,
}

impl From<protocol::Outcome> for StoredAnswer {
    fn from(outcome: protocol::Outcome) -> StoredAnswer {
        use protocol::TombstoneReason as Reason;
        match outcome {
            protocol::Outcome::Tombstone(tombstone) => StoredAnswer {
                status: tombstone.status,
                tombstone: Some(match tombstone.reason {
                    Reason::TooLarge => TombstoneReason::TooLarge,
                    Reason::Trailers => TombstoneReason::Trailers,
                    Reason::Capacity => TombstoneReason::Capacity,
                    Reason::NotStorable => TombstoneReason::NotStorable,
                }),
                headers: Vec::new(),
                body: None,
                body_hex: None,
            },
            protocol::Outcome::Response(response) => {
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                let headers = response.headers.iter();
                let (body, body_hex) = match std::str::from_utf8(&response.body) {
                    Ok(body) => (Some(body.to_owned()), None),
                    Err(_) => (None, Some(hex::encode(&response.body))),
                };
                StoredAnswer {
                    status: response.status,
                    tombstone: None,
                    headers: headers.map(|(n, v)| (text(n), text(v))).collect(),
                    body,
                    body_hex,
                }
            }
        }
    }
}

/// An operator's change of one record.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ResolveRequest {
    /// The tenant; empty for rules with global scope.
    #[serde(default)]
    pub tenant: String,
    /// The namespace of the rule.
    #[serde(default)]
    pub namespace: String,
    /// Who made the key.
    #[serde(default)]
    pub origin: KeyOrigin,
    /// The idempotency key.
    pub key: String,
    /// The version that the operator saw; if the record has another one, nothing happens.
    pub version: u64,
    /// What to set the record to.
    pub to: ResolveTo,
    /// Also while an execution holds a live lease.
    #[serde(default)]
    pub force: bool,
    /// Why, for the audit log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 200)]
    pub reason: Option<String>,
}

/// Longest reason, in characters.
const MAX_REASON_CHARS: usize = 200;

/// A reason that fits on a line of the audit log.
pub(crate) fn reason(text: Option<String>) -> Result<Option<String>, Problem> {
    match text {
        Some(text) if text.chars().count() > MAX_REASON_CHARS => Err(Problem::bad_request(
            format!("`reason` has at most {MAX_REASON_CHARS} characters"),
        )),
        Some(text) if text.chars().any(char::is_control) => {
            Err(Problem::bad_request("`reason` has no control characters"))
        }
        text => Ok(text.filter(|text| !text.is_empty())),
    }
}

impl ResolveRequest {
    /// Which record, and the rest.
    pub(crate) fn split(self) -> (KeyQuery, u64, ResolveTo, bool) {
        let key = KeyQuery {
            tenant: self.tenant,
            namespace: self.namespace,
            key: self.key,
            origin: self.origin,
        };
        (key, self.version, self.to, self.force)
    }
}

/// What an operator sets a record to.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(tag = "state", rename_all = "snake_case", deny_unknown_fields)]
pub enum ResolveTo {
    /// It was done; replay this.
    Completed {
        /// Status to replay, 200 to 599.
        status: u16,
        /// Headers to replay, in order: pairs of name and value.
        #[serde(default)]
        #[schema(value_type = Vec<Vec<String>>)]
        headers: Vec<(String, String)>,
        /// Body to replay.
        #[serde(default)]
        body: String,
        /// There is nothing to replay: retries are told that it was done, and no more. Excludes
        /// headers and body.
        #[serde(default)]
        tombstone: bool,
    },
    /// It was not done; a retry executes.
    Failed {},
}

/// What became of a settled execution.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Settled {
    /// The record's state now.
    pub state: State,
    /// When the record is forgotten, milliseconds since the Unix epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at_ms: Option<u64>,
}

/// What became of a deleted record.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Deleted {
    /// Always true.
    pub deleted: bool,
}

/// An error, after RFC 9457.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ProblemDocument {
    /// Identifies the kind of problem.
    pub r#type: String,
    /// The kind of problem, for people.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What is the matter this time.
    pub detail: String,
    /// The record as it is now, where the problem is about its state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<Record>,
}
