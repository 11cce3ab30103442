//! A policy in the making: built-in values, with `defaults` and then the rule written over them.

use super::reader::{Check, Faults, Field, Object};
use super::*;
use super::{checks, fields};
use crate::json::Value;
use idempotency_protocol::limits::{MAX_LEASE_MS, MAX_RESPONSE_BYTES, MAX_TTL_MS, MAX_WAIT_MS};

/// Largest body that can be stored.
const MAX_BYTES: u64 = 256 << 20;
/// Callout timeouts are 32 bits wide in the ABI.
pub(super) const MAX_TIMEOUT_MS: u64 = u32::MAX as u64;

/// Like [`Policy`]; what has no fixed default is still open.
#[derive(Clone)]
pub(super) struct Draft {
    pub mode: Mode,
    pub key: KeyPolicy,
    pub namespace: String,
    pub scope: Option<Scope>,
    pub fingerprint: FingerprintPolicy,
    pub max_body_bytes: u64,
    pub max_response_bytes: u64,
    pub execution: Option<Execution>,
    pub execution_timeout_ms: u64,
    pub lease_ms: u64,
    pub lease_margin_ms: u64,
    pub ttl_ms: u64,
    pub unknown_ttl_ms: Option<u64>,
    pub wait_ms: u64,
    pub on_unknown: OnUnknown,
    pub on_service_failure: OnServiceFailure,
    pub on_complete_failure: OnCompleteFailure,
    pub outcomes: Outcomes,
    pub replay_headers: Vec<String>,
    pub cors: Cors,
    pub identity_encoding: bool,
    pub retry_after_s: u64,
}

impl Draft {
    /// The built-in values.
    pub fn built_in() -> Draft {
        let names = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect();
        Draft {
            mode: Mode::Enforce,
            key: KeyPolicy {
                header: "idempotency-key".to_owned(),
                syntax: KeySyntax::Any,
                when_missing: WhenMissing::Refuse,
            },
            namespace: String::new(),
            scope: None,
            fingerprint: FingerprintPolicy {
                body: BodyMode::Raw,
                headers: names(&[
                    "content-encoding",
                    "content-range",
                    "if-match",
                    "if-none-match",
                    "if-unmodified-since",
                ]),
                host: false,
            },
            max_body_bytes: 1 << 20,
            max_response_bytes: 1 << 20,
            execution: None,
            execution_timeout_ms: 30_000,
            lease_ms: 60_000,
            lease_margin_ms: 1_000,
            ttl_ms: 24 * 3600 * 1000,
            unknown_ttl_ms: None,
            wait_ms: 0,
            on_unknown: OnUnknown::Refuse,
            on_service_failure: OnServiceFailure::Refuse,
            on_complete_failure: OnCompleteFailure::Deliver,
            outcomes: default_outcomes(),
            replay_headers: Vec::new(),
            cors: Cors::Gateway,
            identity_encoding: true,
            retry_after_s: 1,
        }
    }

    /// Writes the policy fields of an object over this draft.
    pub fn apply(&mut self, object: &Object<'_>, faults: &mut Faults) {
        let mut apply = Apply { object, faults };
        let modes = [("enforce", Mode::Enforce), ("observe", Mode::Observe)];
        apply.choice("mode", &modes, &mut self.mode);
        apply.string("namespace", checks::namespace, &mut self.namespace);
        apply.integer("max_body_bytes", 1, MAX_BYTES, &mut self.max_body_bytes);
        apply.integer(
            "max_response_bytes",
            1,
            MAX_RESPONSE_BYTES as u64,
            &mut self.max_response_bytes,
        );
        let executions = [
            ("inline", Execution::Inline),
            ("detached", Execution::Detached),
        ];
        apply.choice_some("execution", &executions, &mut self.execution);
        apply.integer(
            "execution_timeout_ms",
            1,
            MAX_TIMEOUT_MS,
            &mut self.execution_timeout_ms,
        );
        apply.integer("lease_ms", 1, MAX_LEASE_MS, &mut self.lease_ms);
        apply.integer(
            "lease_margin_ms",
            1,
            MAX_LEASE_MS,
            &mut self.lease_margin_ms,
        );
        apply.integer("ttl_ms", 1, MAX_TTL_MS, &mut self.ttl_ms);
        let mut unknown_ttl_ms = 0;
        apply.integer("unknown_ttl_ms", 1, MAX_TTL_MS, &mut unknown_ttl_ms);
        if unknown_ttl_ms > 0 {
            self.unknown_ttl_ms = Some(unknown_ttl_ms);
        }
        apply.integer("wait_ms", 0, MAX_WAIT_MS, &mut self.wait_ms);
        let unknowns = [("refuse", OnUnknown::Refuse), ("retry", OnUnknown::Retry)];
        apply.choice("on_unknown", &unknowns, &mut self.on_unknown);
        let failures = [
            ("refuse", OnServiceFailure::Refuse),
            ("pass", OnServiceFailure::Pass),
        ];
        apply.choice(
            "on_service_failure",
            &failures,
            &mut self.on_service_failure,
        );
        let failures = [
            ("deliver", OnCompleteFailure::Deliver),
            ("withhold", OnCompleteFailure::Withhold),
        ];
        apply.choice(
            "on_complete_failure",
            &failures,
            &mut self.on_complete_failure,
        );
        apply.names(
            "replay_headers",
            checks::replayed_header,
            &mut self.replay_headers,
        );
        let cors = [("gateway", Cors::Gateway), ("stored", Cors::Stored)];
        apply.choice("cors", &cors, &mut self.cors);
        let encodings = [("identity", true), ("keep", false)];
        apply.choice("accept_encoding", &encodings, &mut self.identity_encoding);
        apply.integer("retry_after_s", 1, 86_400, &mut self.retry_after_s);
        self.apply_key(object, faults);
        self.apply_fingerprint(object, faults);
        if let Some(field) = object.get("scope") {
            self.scope = scope(&field, faults).or(self.scope.take());
        }
        if let Some(field) = object.get("outcomes") {
            outcomes(&field, &mut self.outcomes, faults);
        }
    }

    fn apply_key(&mut self, object: &Object<'_>, faults: &mut Faults) {
        let Some(object) = object
            .get("key")
            .and_then(|f| faults.object(&f, &[fields::KEY]))
        else {
            return;
        };
        let mut apply = Apply {
            object: &object,
            faults,
        };
        apply.string("header", checks::key_header, &mut self.key.header);
        self.key.header.make_ascii_lowercase();
        let syntaxes = [("any", KeySyntax::Any), ("strict", KeySyntax::Strict)];
        apply.choice("syntax", &syntaxes, &mut self.key.syntax);
        let missing = [
            ("refuse", WhenMissing::Refuse),
            ("pass", WhenMissing::Pass),
            ("derive", WhenMissing::Derive),
        ];
        apply.choice("when_missing", &missing, &mut self.key.when_missing);
    }

    fn apply_fingerprint(&mut self, object: &Object<'_>, faults: &mut Faults) {
        let field = object.get("fingerprint");
        let Some(object) = field.and_then(|f| faults.object(&f, &[fields::FINGERPRINT])) else {
            return;
        };
        let mut apply = Apply {
            object: &object,
            faults,
        };
        let bodies = [
            ("raw", BodyMode::Raw),
            ("json", BodyMode::Json),
            ("none", BodyMode::None),
        ];
        apply.choice("body", &bodies, &mut self.fingerprint.body);
        apply.names(
            "headers",
            checks::fingerprint_header,
            &mut self.fingerprint.headers,
        );
        if let Some(host) = object.get("host").and_then(|f| faults.boolean(&f)) {
            self.fingerprint.host = host;
        }
    }
}

/// Writes valid fields over values; what is missing or wrong leaves them as they are.
struct Apply<'o, 'f> {
    object: &'o Object<'o>,
    faults: &'f mut Faults,
}

impl Apply<'_, '_> {
    fn choice<T: Copy>(&mut self, name: &str, words: &[(&str, T)], into: &mut T) {
        if let Some(value) = self
            .object
            .get(name)
            .and_then(|f| self.faults.choice(&f, words))
        {
            *into = value;
        }
    }

    fn choice_some<T: Copy>(&mut self, name: &str, words: &[(&str, T)], into: &mut Option<T>) {
        if let Some(value) = self
            .object
            .get(name)
            .and_then(|f| self.faults.choice(&f, words))
        {
            *into = Some(value);
        }
    }

    fn integer(&mut self, name: &str, min: u64, max: u64, into: &mut u64) {
        if let Some(value) = self
            .object
            .get(name)
            .and_then(|f| self.faults.integer(&f, min, max))
        {
            *into = value;
        }
    }

    fn string(&mut self, name: &str, check: Check, into: &mut String) {
        if let Some(value) = self
            .object
            .get(name)
            .and_then(|f| self.faults.string(&f, check))
        {
            *into = value;
        }
    }

    /// A list of header names, in lower case, sorted.
    fn names(&mut self, name: &str, check: Check, into: &mut Vec<String>) {
        let elements = self.object.get(name).and_then(|f| self.faults.array(&f));
        if let Some(names) = elements.and_then(|list| self.faults.strings(&list, check)) {
            *into = names;
            into.iter_mut().for_each(|name| name.make_ascii_lowercase());
            into.sort();
        }
    }
}

fn scope(field: &Field<'_>, faults: &mut Faults) -> Option<Scope> {
    if let Value::String(_) = field.value {
        return faults
            .choice(field, &[("global", ())])
            .map(|()| Scope::Global);
    }
    let Value::Object(members) = field.value else {
        faults.add(&field.path, "must be \"global\" or an object");
        return None;
    };
    let object = faults.object(field, &[fields::SCOPE])?;
    if members.len() != 1 {
        faults.add(
            &field.path,
            "must have exactly one of header, property, credentials",
        );
        return None;
    }
    if let Some(header) = object.get("header") {
        let name = faults.string(&header, checks::tenant_header)?;
        return Some(Scope::Header(name.to_ascii_lowercase()));
    }
    if let Some(property) = object.get("property") {
        let elements = faults.array(&property)?;
        if elements.is_empty() {
            faults.add(&property.path, "must not be empty");
            return None;
        }
        let parts = elements.iter().map(|e| faults.string(e, checks::property));
        return parts
            .collect::<Vec<_>>()
            .into_iter()
            .collect::<Option<_>>()
            .map(Scope::Property);
    }
    let credentials = object.get("credentials")?;
    faults
        .choice(&credentials, &[("static", ())])
        .map(|()| Scope::StaticCredentials)
}

/// SPEC: 4xx that say "try again, differently or later" are not kept; 5xx may have had effects.
fn default_outcomes() -> Outcomes {
    let again = [401, 403, 407, 408, 421, 423, 425, 429];
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

fn outcomes(field: &Field<'_>, outcomes: &mut Outcomes, faults: &mut Faults) {
    if let Value::String(_) = field.value {
        match faults.choice(field, &[("default", false), ("all", true)]) {
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
    let words = [
        ("completed", OutcomeClass::Completed),
        ("failed", OutcomeClass::Failed),
        ("unknown", OutcomeClass::Unknown),
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
                let Some(class) = faults.choice(&field, &words) else {
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
        if let Some(class) = faults.choice(&field, &words) {
            *slot = class;
        }
    }
    outcomes.statuses.sort_by_key(|(status, _)| *status);
}
