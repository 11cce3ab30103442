//! From a request's head to the decision: pass, refuse, or protect.
//!
//! Most requests are not protected, and pay for one look through their fields: what a client must
//! not send is found by name, on every path, and there are more spellings of a name than could be
//! asked for one by one.

use crate::config::{BodyMode, KeyPolicy, Policy, Rule, Scope, WhenMissing};
use crate::fingerprint::{Hasher, Head};
use crate::headers::Headers;
use crate::hop::{Carried, MayBe};
use crate::names::{self, Kind, Names};
use crate::problem::{Problem, ProblemSettings};
use crate::reply::LocalReply;
use crate::request::Request;
use crate::rules::{self, Place, RuleMatch};
use crate::settings::Settings;
use crate::{key, tenant};
use bytes::Bytes;
use std::borrow::Cow;
use std::sync::Arc;

/// A request before its body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestHead {
    /// As sent.
    pub method: Bytes,
    /// Path and query as the client sent them; empty for `CONNECT`.
    pub target: Bytes,
    /// The host that the client asked for, with its port.
    pub authority: Bytes,
    /// All fields, names in lower case. Pseudo-header fields (`:path`) may be among them.
    pub headers: Headers,
    /// There is no body.
    pub bodiless: bool,
    /// The host does not show all fields.
    pub truncated: bool,
    /// Among the fields that it does not show is one that only we send.
    pub forged: bool,
}

/// What is known of a request besides its fields. Asked only where a rule needs it.
pub trait Properties {
    /// A property that the operator named as the source of tenants; `None`: there is none.
    fn property(&self, path: &[&str]) -> Option<Bytes>;

    /// The id of the gateway's route (`kong_routes`).
    fn route(&self) -> Option<Bytes> {
        None
    }

    /// The id of the gateway's service (`kong_services`).
    fn service(&self) -> Option<Bytes> {
        None
    }
}

/// A request that has no properties.
impl Properties for () {
    fn property(&self, _: &[&str]) -> Option<Bytes> {
        None
    }
}

/// What to do with a request.
#[derive(Debug)]
pub struct Decision {
    /// Fields that are to be removed before it goes on, whatever becomes of it.
    pub strip: Vec<Bytes>,
    /// What becomes of it.
    pub verdict: Verdict,
}

/// What becomes of a request.
#[derive(Debug)]
pub enum Verdict {
    /// Not protected.
    Pass,
    /// Would have been refused, but its rule only observes.
    Observed(Box<Refused>),
    /// Refused from its head alone.
    Refuse(Box<Refused>, LocalReply),
    /// Protected.
    Protect {
        /// What stays the same for its life. Nobody else has it yet.
        request: Arc<Request>,
        /// Its fingerprint so far.
        hasher: Box<Hasher>,
    },
}

/// Why a request was refused from its head, for counters and logs.
#[derive(Clone, Debug, PartialEq)]
pub struct Refused {
    /// The problem.
    pub problem: Problem,
    /// The rule that refuses; `None`: no single one.
    pub rule: Option<Arc<Rule>>,
    /// What is known of it; no keys and no payloads, but it may name a header.
    pub detail: Cow<'static, str>,
}

/// A reason to refuse, with what the client is told.
struct Refusal {
    problem: Problem,
    detail: Cow<'static, str>,
}

impl Refusal {
    fn new(problem: Problem, detail: impl Into<Cow<'static, str>>) -> Refusal {
        Refusal {
            problem,
            detail: detail.into(),
        }
    }
}

/// What decides besides the fields.
struct Whereabouts {
    route: Bytes,
    service: Bytes,
}

impl Whereabouts {
    fn read(settings: &Settings, properties: &dyn Properties) -> Whereabouts {
        let asked = |of: fn(&Rule) -> bool| settings.rules().iter().any(|rule| of(rule));
        let routes = asked(|rule| !rule.matches.routes.is_empty());
        let services = asked(|rule| !rule.matches.services.is_empty());
        Whereabouts {
            route: routes
                .then(|| properties.route())
                .flatten()
                .unwrap_or_default(),
            service: services
                .then(|| properties.service())
                .flatten()
                .unwrap_or_default(),
        }
    }

    fn place<'a>(&'a self, authority: &'a [u8]) -> Place<'a> {
        Place {
            host: authority,
            route: &self.route,
            service: &self.service,
        }
    }
}

/// Decides from the head of a request.
pub fn decide(
    settings: &Arc<Settings>,
    mut head: RequestHead,
    properties: &dyn Properties,
) -> Decision {
    let mut strip = Vec::new();
    let mut unwelcome = Unwelcome::among(settings, &head.headers);
    // Most requests carry nothing, and pay nothing.
    let carried = unwelcome.ours.then(|| Carried::of(&head.headers));
    let mark = carried
        .as_ref()
        .map(|carried| carried.mark(MayBe::NotExecuted));
    unwelcome.carried = carried;
    let mut verdict = judge(settings, &mut head, properties, unwelcome, &mut strip);
    if let (Verdict::Refuse(_, reply), Some(mark)) = (&mut verdict, mark) {
        reply.headers.push(mark);
    }
    Decision { strip, verdict }
}

fn judge(
    settings: &Arc<Settings>,
    head: &mut RequestHead,
    properties: &dyn Properties,
    mut unwelcome: Unwelcome,
    strip: &mut Vec<Bytes>,
) -> Verdict {
    let rules = settings.rules();
    let whereabouts = Whereabouts::read(settings, properties);
    let authority = std::mem::take(&mut head.authority);
    let target = std::mem::take(&mut head.target);
    let (place, path) = (whereabouts.place(&authority), &target);

    // Where they cannot be removed, they are left to a gateway of ours that may prove them (`Carried::is_replaceable`).
    let mut left = false;
    if unwelcome.ours || head.forged {
        if !settings.capabilities.removes_fields {
            let carried = unwelcome.carried.as_ref();
            left = settings.hop.is_some()
                && !head.forged
                && carried.is_some_and(|carried| carried.is_replaceable());
            if !left {
                return refuse_anywhere(settings, ONLY_OURS, &head.headers);
            }
        }
        remove(Kind::Ours, settings, &mut head.headers, strip);
        if left {
            strip.clear();
        }
    }
    if let Some(name) = unwelcome.disguised {
        if let Some(index) = rules::enforced(rules, place, path) {
            let detail = format!(
                "The header {} can be taken for another one.",
                String::from_utf8_lossy(&name)
            );
            let refusal = Refusal::new(Problem::UnsupportedRequest, detail);
            return refuse(settings, index, refusal, &head.headers);
        }
        if rules::reaches(rules, place, path, &[]) {
            return Verdict::Observed(Box::new(Refused {
                problem: Problem::UnsupportedRequest,
                rule: None,
                detail: "A header can be taken for another one.".into(),
            }));
        }
        if settings.capabilities.removes_fields {
            remove(Kind::Disguised, settings, &mut head.headers, strip);
        }
    }
    // Some may be missing, and one of them may turn the request into a protected one.
    if head.truncated && rules::reaches(rules, place, path, &head.headers.0) {
        return refuse_anywhere(settings, TOO_MANY, &head.headers);
    }
    let replacing: &[_] = match unwelcome.replaces {
        true => &head.headers.0,
        false => &[],
    };
    let found = rules::decide(rules, &head.method, place, path, replacing);
    let (index, detail) = match found {
        RuleMatch::None if left => {
            return refuse_anywhere(settings, ONLY_OURS, &head.headers);
        }
        RuleMatch::None => return Verdict::Pass,
        RuleMatch::Rule(matched) => {
            if left && matched.rule.observes() {
                return refuse_anywhere(settings, ONLY_OURS, &head.headers);
            }
            // What is only observed goes on as it came.
            let removes = settings.capabilities.removes_fields && !matched.rule.observes();
            if removes && offers_http2(&head.headers) {
                for name in ["upgrade", "http2-settings"] {
                    remove_named(name, &mut head.headers, strip);
                }
            }
            let carried = unwelcome.carried.take();
            return match protect(settings, &matched, &authority, head, carried, properties) {
                Ok(Some(protect)) => protect,
                Ok(None) if left => refuse_anywhere(settings, ONLY_OURS, &head.headers),
                Ok(None) => Verdict::Pass,
                Err(refusal) => refuse(settings, matched.index, refusal, &head.headers),
            };
        }
        RuleMatch::Ambiguous(index) => (index, "The path can be read in more than one way."),
        RuleMatch::Overridden(index) => (index, "A method override is not accepted for this path."),
        RuleMatch::Moved(index) => (index, "A header leads this request to another path."),
    };
    let refusal = Refusal::new(Problem::UnsupportedRequest, detail);
    refuse(settings, index, refusal, &head.headers)
}

/// What a client is told that sends fields which only we send.
pub const ONLY_OURS: &str = "Only the gateway sends the headers Idempotency-Fence, \
                             Idempotency-Attempt, Idempotency-Record, Idempotency-Proof and \
                             Idempotency-Unprotected.";
const TOO_MANY: &str = "The request has more header fields than this gateway can look through.";

/// What a request has that must not go upstream as it is.
#[derive(Default)]
struct Unwelcome {
    /// A field that only the gateway sends.
    ours: bool,
    /// What of these names an execution.
    carried: Option<Box<Carried>>,
    /// The first one that is another spelling of a field that we act on.
    disguised: Option<Bytes>,
    /// A field by which some frameworks replace method or path, in any spelling.
    replaces: bool,
}

impl Unwelcome {
    fn among(settings: &Settings, headers: &Headers) -> Unwelcome {
        let mut found = Unwelcome::default();
        for (name, _) in &headers.0 {
            found.replaces |= names::replaces(name);
            match settings.names.kind(name) {
                Kind::Ordinary => {}
                Kind::Ours => found.ours = true,
                Kind::Disguised => {
                    found.disguised.get_or_insert_with(|| name.clone());
                }
            }
        }
        found
    }
}

/// Removes the fields of one kind from the request.
fn remove(kind: Kind, settings: &Settings, headers: &mut Headers, strip: &mut Vec<Bytes>) {
    headers.0.retain(|(name, _)| {
        let keep = settings.names.kind(name) != kind;
        // Removing a name takes all of its fields.
        if !keep && !strip.contains(name) {
            strip.push(name.clone());
        }
        keep
    });
}

/// Removes the fields of one name from the request.
fn remove_named(name: &'static str, headers: &mut Headers, strip: &mut Vec<Bytes>) {
    let before = headers.0.len();
    headers
        .0
        .retain(|(field, _)| !field.eq_ignore_ascii_case(name.as_bytes()));
    if headers.0.len() < before {
        strip.push(Bytes::from_static(name.as_bytes()));
    }
}

/// Whether a request offers to go on in HTTP/2 (`Upgrade: h2c`, RFC 7540 §3.2), and in nothing else, as Java's
/// `HttpClient` does with each request. A server may ignore the offer (RFC 9110 §7.8). An upstream behind the filter
/// never sees it: Envoy, nginx and Kong remove it, and so do we where we can. So it is an ordinary request.
fn offers_http2(headers: &Headers) -> bool {
    let mut offers = headers
        .all("upgrade")
        .flat_map(|value| value.split(|b| *b == b','));
    let is_http2 = |offer: &[u8]| offer.trim_ascii().eq_ignore_ascii_case(b"h2c");
    headers.has("upgrade") && offers.all(is_http2)
}

/// The names of the fields that only we send, among those of a request that there are no settings
/// for.
pub fn ours_among(headers: &Headers) -> Vec<Bytes> {
    let names = Names::default();
    let ours = headers
        .0
        .iter()
        .filter(|(name, _)| names.kind(name) == Kind::Ours);
    ours.map(|(name, _)| name.clone()).collect()
}

/// Refuses by a rule, unless that only observes.
fn refuse(settings: &Settings, index: usize, refusal: Refusal, request: &Headers) -> Verdict {
    let Some(rule) = settings.rules().get(index) else {
        return unreadable();
    };
    let refused = Box::new(Refused {
        problem: refusal.problem,
        rule: Some(Arc::clone(rule)),
        detail: refusal.detail,
    });
    if rule.observes() {
        return Verdict::Observed(refused);
    }
    let problem_settings = ProblemSettings::new(&settings.policies, &rule.policy, request);
    let reply = refused
        .problem
        .reply(&problem_settings, Some(&refused.detail));
    Verdict::Refuse(refused, reply)
}

/// Refuses what no rule needs to match, unless all of them only observe.
fn refuse_anywhere(settings: &Settings, detail: &'static str, request: &Headers) -> Verdict {
    let index = settings
        .rules()
        .iter()
        .position(|rule| !rule.observes())
        .unwrap_or(0);
    refuse(
        settings,
        index,
        Refusal::new(Problem::UnsupportedRequest, detail),
        request,
    )
}

/// A request that a rule may concern and that the host does not let us read is not passed.
pub fn unreadable() -> Verdict {
    let problem = Problem::UnsupportedRequest;
    let refused = Box::new(Refused {
        problem,
        rule: None,
        detail: "The host does not let the request's head be read.".into(),
    });
    Verdict::Refuse(refused, problem.reply(&ProblemSettings::DEFAULT, None))
}

fn protect(
    settings: &Arc<Settings>,
    matched: &rules::Matched,
    authority: &[u8],
    head: &mut RequestHead,
    carried: Option<Box<Carried>>,
    properties: &dyn Properties,
) -> Result<Option<Verdict>, Refusal> {
    let RequestHead {
        method,
        headers,
        bodiless,
        ..
    } = head;
    let rule = matched.rule;
    let policy = &rule.policy;
    supported(policy, method, headers, *bodiless)?;
    nominated(settings, headers)?;
    if let Some(name) = cannot_be_changed(settings, policy, headers) {
        let detail = format!("This gateway cannot keep the header {name} from the upstream.");
        return Err(Refusal::new(Problem::UnsupportedRequest, detail));
    }

    let client_key = match &policy.key.from {
        // It comes with the body.
        Some(_) => None,
        None => match (in_headers(&policy.key, headers)?, policy.key.when_missing) {
            (None, WhenMissing::Pass) => return Ok(None),
            (None, WhenMissing::Refuse) => {
                let name = first_of(&policy.key);
                let detail = format!("This operation requires the header {name}.");
                return Err(Refusal::new(Problem::MissingKey, detail));
            }
            (key, _) => key,
        },
    };

    let property = match &policy.scope {
        Scope::Property(path) => {
            properties.property(&path.iter().map(String::as_str).collect::<Vec<_>>())
        }
        _ => None,
    };
    let tenant = tenant::resolve(&policy.scope, &headers.0, property.as_deref())
        .map_err(|error| Refusal::new(Problem::TenantMissing, sentence(&error.to_string())))?;

    if !*bodiless
        && headers
            .content_length()
            .is_some_and(|n| n > policy.max_body_bytes as u64)
    {
        return Err(Refusal::new(Problem::BodyTooLarge, too_large(policy)));
    }

    let head = Head {
        method,
        path: &matched.path,
        query: matched.query,
        host: authority,
        headers: &headers.0,
    };
    let mut hasher = Box::new(settings.hasher(matched, &head));
    if let Some(pointer) = &policy.key.from {
        *hasher = hasher.with_key(pointer);
    }
    let request_id = headers.get("x-request-id").cloned().unwrap_or_default();
    let request = Arc::new(Request {
        settings: Arc::clone(settings),
        rule: Arc::clone(rule),
        tenant,
        client_key,
        method: std::mem::take(method),
        path: matched.path.clone().into_owned(),
        headers: std::mem::take(headers),
        carried,
        client: Bytes::new(),
        request_id,
    });
    Ok(Some(Verdict::Protect { request, hasher }))
}

fn first_of(policy: &KeyPolicy) -> &str {
    policy.headers().first().map_or("", String::as_str)
}

/// The key that is in the headers: in the first of those that may have it. All of them are read.
fn in_headers(policy: &KeyPolicy, headers: &Headers) -> Result<Option<String>, Refusal> {
    let invalid = |detail: String| Refusal::new(Problem::InvalidKey, detail);
    let mut found = None;
    for name in policy.headers() {
        let mut values = headers.all(name);
        let Some(value) = values.next() else {
            continue;
        };
        let key = key::parse_one(value, values.next().is_some(), policy)
            .map_err(|error| invalid(format!("Header {name}: {error}.")))?;
        if found.as_ref().is_some_and(|first| *first != key) {
            let first = first_of(policy);
            let detail = format!("The headers {first} and {name} have different keys.");
            return Err(invalid(detail));
        }
        found = Some(key);
    }
    Ok(found)
}

/// A field of a client's request that would have to go, or to have one value, on its way upstream, and
/// cannot: nginx sends on what a filter removes, and all but one of what it sets (measured).
fn cannot_be_changed<'p>(
    settings: &Settings,
    policy: &'p Policy,
    headers: &Headers,
) -> Option<&'p str> {
    if settings.capabilities.removes_fields {
        return None;
    }
    let encoding = policy.identity_encoding.then_some("accept-encoding");
    // A key that is in the body goes upstream in this header, too.
    let key = policy.key.from.as_ref().map(|_| first_of(&policy.key));
    let mut set = [encoding, key].into_iter().flatten();
    set.find(|name| headers.all(name).count() > 1)
}

/// What a client is told whose body is over the cap.
pub fn too_large(policy: &Policy) -> String {
    let cap = policy.max_body_bytes;
    format!("This operation accepts request bodies of at most {cap} bytes.")
}

/// Upgrades and gRPC cannot be replayed, and a body that is not read cannot be compared. No header exempts
/// a matched request from protection, so they are refused, not passed. An [offer](offers_http2) of HTTP/2 that nobody
/// takes up is no upgrade.
///
/// gRPC-Web is an ordinary request with an ordinary answer, and so is a call of Connect; a streaming one
/// (`application/connect+…`) is where the rule knows of streams.
fn supported(
    policy: &Policy,
    method: &[u8],
    headers: &Headers,
    bodiless: bool,
) -> Result<(), Refusal> {
    let unsupported = |detail: String| Err(Refusal::new(Problem::UnsupportedRequest, detail));
    let refusal = |what: &str| {
        unsupported(format!(
            "{what} cannot be protected against repeated execution."
        ))
    };
    if (headers.has("upgrade") && !offers_http2(headers)) || method == b"CONNECT" {
        return refusal("Upgrades");
    }
    for value in headers.all("content-type") {
        let kind = value.trim_ascii_start().to_ascii_lowercase();
        if let Some(rest) = kind.strip_prefix(b"application/grpc") {
            if !rest.starts_with(b"-web") {
                return refusal("gRPC calls");
            }
        }
        if kind.starts_with(b"application/connect+") && !policy.stream {
            return refusal("Streaming calls");
        }
    }
    let read = policy.key.from.is_some() || policy.fingerprint.body() == BodyMode::Json;
    let coded = |value: &&Bytes| {
        let value = value.trim_ascii();
        !value.is_empty() && !value.eq_ignore_ascii_case(b"identity")
    };
    match headers.all("content-encoding").find(coded) {
        Some(coding) if read && !bodiless => unsupported(format!(
            "The body has the encoding {}, and this operation reads it as JSON. Send it as it is; or the \
             operator of this gateway puts a decompressor in front (Envoy: \
             envoy.filters.http.decompressor).",
            String::from_utf8_lossy(coding)
        )),
        _ => Ok(()),
    }
}

/// A field that `Connection` names belongs to one hop (RFC 9110 §7.6.1): the next proxy would drop
/// what this one has looked at.
fn nominated(settings: &Settings, headers: &Headers) -> Result<(), Refusal> {
    for value in headers.all("connection") {
        let mut options = value.split(|b| *b == b',').map(<[u8]>::trim_ascii);
        if let Some(name) = options.find(|option| settings.names.concern(option)) {
            let name = String::from_utf8_lossy(name);
            let detail = format!("Connection must not name {name}.");
            return Err(Refusal::new(Problem::UnsupportedRequest, detail));
        }
    }
    Ok(())
}

fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => format!("{}{}.", first.to_uppercase(), chars.as_str()),
        None => String::new(),
    }
}
