//! Records in the JSON of the operators' API.

use bytes::Bytes;
use idempotency_protocol::{
    About, AttemptKind, LookupKey, Origin, Outcome, StoredResponse, Tombstone, TombstoneReason,
};
use idempotency_store::history::PastEnd;
use idempotency_store::search::Search;
use idempotency_store::{AttemptView, RecordState, RecordView, Resolution, Resolve, StoreError};
use serde::Deserialize;
use serde_json::{json, Value};

#[derive(Debug, Deserialize)]
pub(crate) struct Record {
    tenant: String,
    namespace: String,
    origin: String,
    key: String,
    state: String,
    version: u64,
    fence: u64,
    // A service of an earlier release does not say it.
    #[serde(default)]
    owner: Option<String>,
    attempt: u32,
    status: Option<u16>,
    body_bytes: Option<u64>,
    tombstone: bool,
    created_at_ms: u64,
    changed_at_ms: u64,
    lease_left_ms: Option<u64>,
    expires_at_ms: Option<u64>,
    /// A service of the release before knows no more than what is above.
    about: Option<Described>,
    #[serde(default)]
    attempts: Vec<Attempt>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Described {
    method: String,
    path: String,
    rule: String,
    gateway: String,
    request_id: String,
    trace_id: String,
    client: String,
}

#[derive(Debug, Deserialize)]
struct Attempt {
    number: u32,
    kind: String,
    started_at_ms: u64,
    end: Option<String>,
    ended_at_ms: Option<u64>,
}

impl Described {
    fn about(self) -> Box<About> {
        Box::new(About {
            method: self.method,
            path: self.path,
            rule: self.rule,
            gateway: self.gateway,
            request_id: self.request_id,
            trace_id: self.trace_id,
            client: self.client,
        })
    }
}

impl Attempt {
    fn view(self) -> Result<AttemptView, StoreError> {
        let kind = match self.kind.as_str() {
            "gateway" => AttemptKind::Gateway,
            "guard" => AttemptKind::Guard,
            "transaction" => AttemptKind::Transaction,
            "relayed" => AttemptKind::Relayed,
            other => return Err(senseless(format!("kind {other:?}"))),
        };
        let end = match self.end.as_deref() {
            None => None,
            Some("failed") => Some(PastEnd::Failed),
            Some("unknown") => Some(PastEnd::Unknown),
            Some(other) => return Err(senseless(format!("end {other:?}"))),
        };
        Ok(AttemptView {
            number: self.number,
            kind,
            started_at_ms: self.started_at_ms,
            end: end.map(|end| (end, self.ended_at_ms.unwrap_or_default())),
        })
    }
}

#[derive(Debug, Deserialize)]
pub(crate) struct Records {
    pub records: Vec<Record>,
    pub next: Option<String>,
    #[serde(default)]
    pub looked_at: Option<usize>,
}

/// What is stored for a completed record.
#[derive(Debug, Deserialize)]
pub(crate) struct StoredAnswer {
    status: u16,
    tombstone: Option<String>,
    #[serde(default)]
    headers: Vec<(String, String)>,
    body: Option<String>,
    body_hex: Option<String>,
}

impl StoredAnswer {
    pub(crate) fn outcome(self) -> Result<Outcome, StoreError> {
        let status = self.status;
        if let Some(reason) = self.tombstone {
            let reason = match reason.as_str() {
                "too_large" => TombstoneReason::TooLarge,
                "trailers" => TombstoneReason::Trailers,
                "capacity" => TombstoneReason::Capacity,
                "not_storable" => TombstoneReason::NotStorable,
                other => return Err(senseless(format!("tombstone {other:?}"))),
            };
            return Ok(Outcome::Tombstone(Tombstone { status, reason }));
        }
        let body = match (self.body, self.body_hex) {
            (Some(text), None) => Bytes::from(text),
            (None, Some(digits)) => Bytes::from(hex::decode(digits).map_err(senseless)?),
            _ => return Err(senseless("not one body")),
        };
        let headers = self.headers.into_iter();
        Ok(Outcome::Response(StoredResponse {
            status,
            headers: headers
                .map(|(name, value)| (Bytes::from(name), Bytes::from(value)))
                .collect(),
            body,
        }))
    }
}

/// A refusal; the record where the refusal is about its state.
#[derive(Debug, Deserialize)]
pub(crate) struct Refusal {
    #[serde(default)]
    pub detail: String,
    pub record: Option<Record>,
}

impl Record {
    pub(crate) fn view(self) -> Result<RecordView, StoreError> {
        let origin = match self.origin.as_str() {
            "client" => Origin::Client,
            "derived" => Origin::Derived,
            other => return Err(senseless(format!("origin {other:?}"))),
        };
        let state = match self.state.as_str() {
            "executing" => RecordState::Executing,
            "completed" => RecordState::Completed,
            "failed" => RecordState::Failed,
            "unknown" => RecordState::Unknown,
            other => return Err(senseless(format!("state {other:?}"))),
        };
        Ok(RecordView {
            key: LookupKey {
                tenant: self.tenant,
                namespace: self.namespace,
                origin,
                key: self.key,
            },
            state,
            version: self.version,
            fence: self.fence,
            attempt: self.attempt,
            owner: self.owner,
            status: self.status,
            body_bytes: self.body_bytes,
            tombstone: self.tombstone,
            created_at_ms: self.created_at_ms,
            changed_at_ms: self.changed_at_ms,
            lease_left_ms: self.lease_left_ms,
            expires_at_ms: self.expires_at_ms,
            about: self.about.map(Described::about),
            attempts: self
                .attempts
                .into_iter()
                .map(Attempt::view)
                .collect::<Result<_, _>>()?,
        })
    }
}

pub(crate) fn senseless(detail: impl std::fmt::Display) -> StoreError {
    StoreError::Permanent(format!(
        "the service's answer cannot be understood: {detail}"
    ))
}

pub(crate) fn state(state: RecordState) -> &'static str {
    match state {
        RecordState::Executing => "executing",
        RecordState::Completed => "completed",
        RecordState::Failed => "failed",
        RecordState::Unknown => "unknown",
    }
}

/// The parts of a key, as a query has them.
pub(crate) fn pairs(key: &LookupKey) -> Vec<(&'static str, String)> {
    vec![
        ("tenant", key.tenant.clone()),
        ("namespace", key.namespace.clone()),
        ("key", key.key.clone()),
        ("origin", origin(key).to_owned()),
    ]
}

/// A search, as a query has it.
pub(crate) fn search(search: &Search) -> Vec<(&'static str, String)> {
    let time = |at: Option<u64>| at.map(|at| at.to_string());
    let texts = [
        ("tenant", &search.tenant),
        ("namespace", &search.namespace),
        ("key", &search.key),
        ("key_prefix", &search.key_prefix),
        ("log_id", &search.log_id),
        ("request_id", &search.request_id),
        ("trace_id", &search.trace_id),
        ("q", &search.text),
        ("path", &search.path),
        ("rule", &search.rule),
    ];
    let mut pairs = vec![("limit", search.limit.clamp(1, 1_000).to_string())];
    let texts = texts.into_iter();
    pairs.extend(texts.filter_map(|(name, value)| Some((name, value.clone()?))));
    let others = [
        ("state", search.state.map(|s| state(s).to_owned())),
        ("changed_until_ms", time(search.changed_until_ms)),
        ("changed_from_ms", time(search.changed_from_ms)),
        ("after", search.after.as_ref().map(hex::encode)),
    ];
    let others = others.into_iter();
    pairs.extend(others.filter_map(|(name, value)| Some((name, value?))));
    pairs
}

fn origin(key: &LookupKey) -> &'static str {
    match key.origin {
        Origin::Client => "client",
        Origin::Derived => "derived",
    }
}

/// The body of a resolve; `None`: it is a delete. JSON holds text alone.
pub(crate) fn resolve(resolve: &Resolve) -> Result<Option<Value>, StoreError> {
    let text = |bytes: &[u8]| {
        let text = std::str::from_utf8(bytes).map(str::to_owned);
        text.map_err(|_| {
            let message = "an operator can only store text through the service";
            StoreError::Permanent(message.to_owned())
        })
    };
    let to = match &resolve.to {
        Resolution::Deleted => return Ok(None),
        Resolution::Failed => json!({ "state": "failed" }),
        Resolution::Prepared(_) => {
            let message = "the service prepares what is stored itself";
            return Err(StoreError::Permanent(message.to_owned()));
        }
        Resolution::Completed(Outcome::Tombstone(tombstone)) => {
            json!({ "state": "completed", "status": tombstone.status, "tombstone": true })
        }
        Resolution::Completed(Outcome::Response(response)) => {
            let headers = response.headers.iter();
            let headers = headers.map(|(name, value)| Ok((text(name)?, text(value)?)));
            let headers: Vec<(String, String)> = headers.collect::<Result<_, StoreError>>()?;
            json!({
                "state": "completed",
                "status": response.status,
                "headers": headers,
                "body": text(&response.body)?,
            })
        }
    };
    let key = &resolve.key;
    Ok(Some(json!({
        "tenant": key.tenant,
        "namespace": key.namespace,
        "origin": origin(key),
        "key": key.key,
        "version": resolve.version,
        "force": resolve.force,
        "to": to,
    })))
}
