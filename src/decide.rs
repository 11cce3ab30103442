//! From the request's headers to the decision: pass, refuse, or protect.
//!
//! Most requests are not protected, and pay for one read of the header map: what a client must not
//! send is found by name, on every path, and there are more spellings of a name than could be
//! asked for one by one.

use crate::config::{Execution, Mode, Policy, Rule, Scope};
use crate::fingerprint::{self, Hasher};
use crate::headers::Headers;
use crate::host::{Buffer, Host, Map};
use crate::kong;
use crate::names::{Kind, Names};
use crate::problem::{Problem, ProblemSettings};
use crate::profile::Profile;
use crate::reply::LocalReply;
use crate::request::{Request, Settings};
use crate::rules::{self, Place, RuleMatch};
use crate::stream::without_key;
use crate::{key, tenant, upstream};
use bytes::Bytes;
use std::rc::Rc;

/// Status of a refused request whose body has no length (RFC 9110 §15.5.12).
pub const LENGTH_REQUIRED: u16 = 411;

/// What to do with a request.
pub enum Decision {
    /// Not protected.
    Pass,
    /// Would have been refused, but its rule only observes.
    Observed(Problem),
    /// Refused from its headers alone.
    Refuse(Problem, LocalReply),
    /// Protected.
    Protect {
        /// What stays the same for its life.
        request: Box<Request>,
        /// Its fingerprint so far.
        hasher: Box<Hasher>,
        /// What is known of its body.
        body: Body,
    },
}

/// The body of a request whose headers have come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// There is none. In Kong, HTTP/2 and 3 can still bring one.
    None,
    /// All of it; it will be told once more.
    Whole(Bytes),
    /// It will be told.
    Coming,
}

/// A reason to refuse, with what the client is told.
struct Refusal {
    problem: Problem,
    status: u16,
    detail: String,
}

impl Refusal {
    fn new(problem: Problem, detail: impl Into<String>) -> Refusal {
        Refusal {
            problem,
            status: problem.status(),
            detail: detail.into(),
        }
    }
}

/// What decides besides the headers.
struct Target {
    /// As the client sent it.
    path: Bytes,
    /// Empty where no rule asks for it.
    host: Bytes,
    route: Bytes,
    service: Bytes,
}

impl Target {
    fn read<H: Host>(settings: &Settings, headers: &Headers, host: &H) -> Option<Target> {
        let asked = |of: fn(&Rule) -> bool| settings.rules.iter().any(|rule| of(rule));
        let (path, authority) = match settings.profile {
            Profile::Envoy => (headers.get(":path").cloned(), ":authority"),
            // Without it, nobody knows what the upstream gets.
            Profile::Kong => (Some(host.property(&kong::RAW_PATH)?), kong::HOST_HEADER),
        };
        let authority = match asked(|rule| !rule.matches.hosts.is_empty()) {
            true => headers.get(authority).cloned(),
            false => None,
        };
        let place = |asked: bool, path: &[&str]| match asked {
            true => host.property(path).unwrap_or_default(),
            false => Bytes::new(),
        };
        Some(Target {
            // `CONNECT` has no path.
            path: path.unwrap_or_default(),
            host: authority.unwrap_or_default(),
            route: place(asked(|rule| !rule.matches.routes.is_empty()), &kong::ROUTE),
            service: place(
                asked(|rule| !rule.matches.services.is_empty()),
                &kong::SERVICE,
            ),
        })
    }

    fn place(&self) -> Place<'_> {
        Place {
            host: &self.host,
            route: &self.route,
            service: &self.service,
        }
    }
}

/// Decides from the headers of the current stream. `end`: there is no body.
pub fn decide<H: Host>(settings: &Rc<Settings>, host: &H, end: bool) -> Decision {
    let plan = &settings.plan;
    let Ok(fields) = host.headers(Map::Request) else {
        return unreadable();
    };
    let mut headers = match settings.profile {
        Profile::Envoy => Headers(fields),
        Profile::Kong => Headers::lowered(fields),
    };
    let Some(target) = Target::read(settings, &headers, host) else {
        return unreadable();
    };
    let (place, path) = (target.place(), &target.path);
    let some_missing = headers.0.len() >= settings.profile.max_fields();

    let unwelcome = Unwelcome::among(settings, &headers);
    let hidden = some_missing && kong::OURS.iter().any(|name| host.property(name).is_some());
    if unwelcome.ours || hidden {
        match settings.profile {
            Profile::Envoy => remove(Kind::Ours, settings, &mut headers, host),
            // A filter can remove nothing there.
            Profile::Kong => return refuse_anywhere(settings, ONLY_OURS),
        }
    }
    if let Some(name) = unwelcome.disguised {
        if let Some(index) = rules::enforced(plan, place, path) {
            let detail = format!(
                "The header {} can be taken for another one.",
                String::from_utf8_lossy(&name)
            );
            let refusal = Refusal::new(Problem::UnsupportedRequest, detail);
            return refuse(settings, index, refusal);
        }
        if rules::reaches(plan, place, path, &[]) {
            return Decision::Observed(Problem::UnsupportedRequest);
        }
        if settings.profile == Profile::Envoy {
            remove(Kind::Disguised, settings, &mut headers, host);
        }
    }
    if !rules::reaches(plan, place, path, &headers.0) {
        return Decision::Pass;
    }
    // Some may be missing, and one of them may turn the request into a protected one.
    if some_missing {
        return refuse_anywhere(settings, TOO_MANY);
    }
    let method = headers.get(":method").cloned().unwrap_or_default();
    let (index, detail) = match rules::decide(plan, &method, place, path, &headers.0) {
        RuleMatch::None => return Decision::Pass,
        RuleMatch::Rule(matched) => {
            let Some(rule) = settings.rules.get(matched.index) else {
                return Decision::Pass;
            };
            return match protect(settings, rule, headers, &matched, method, host, end) {
                Ok(Some((request, hasher, body))) => Decision::Protect {
                    request: Box::new(request),
                    hasher: Box::new(hasher),
                    body,
                },
                Ok(None) => Decision::Pass,
                Err(refusal) => refuse(settings, matched.index, refusal),
            };
        }
        RuleMatch::Ambiguous(index) => (index, "The path can be read in more than one way."),
        RuleMatch::Overridden(index) => (index, "A method override is not accepted for this path."),
        RuleMatch::Moved(index) => (index, "A header leads this request to another path."),
    };
    let refusal = Refusal::new(Problem::UnsupportedRequest, detail);
    refuse(settings, index, refusal)
}

const ONLY_OURS: &str = "Only the gateway sends the headers Idempotency-Fence, \
                         Idempotency-Attempt, Idempotency-Record and Idempotency-Unprotected.";
const TOO_MANY: &str = "The request has more header fields than this gateway can look through.";

/// What a request has that must not go upstream as it is.
#[derive(Default)]
struct Unwelcome {
    /// A field that only the gateway sends.
    ours: bool,
    /// The first one that is another spelling of a field that the filter acts on.
    disguised: Option<Bytes>,
}

impl Unwelcome {
    fn among(settings: &Settings, headers: &Headers) -> Unwelcome {
        let mut found = Unwelcome::default();
        for (name, _) in &headers.0 {
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
fn remove<H: Host>(kind: Kind, settings: &Settings, headers: &mut Headers, host: &H) {
    headers.0.retain(|(name, _)| {
        let keep = settings.names.kind(name) != kind;
        if !keep {
            // Of a name that occurs twice, the first removal takes both.
            let _ = host.remove_header(Map::Request, name);
        }
        keep
    });
}

/// Whether a client has sent a field that only the gateway sends, and it could not be removed.
/// For a filter that has no configuration.
pub fn has_ours<H: Host>(profile: Profile, host: &H) -> bool {
    let Ok(fields) = host.headers(Map::Request) else {
        return true;
    };
    let mut left = false;
    for (name, _) in &Headers::lowered(fields).0 {
        if Names::default().kind(name) == Kind::Ours {
            left |= profile == Profile::Kong || host.remove_header(Map::Request, name).is_err();
        }
    }
    left
}

/// Refuses by a rule, unless that only observes.
fn refuse(settings: &Settings, index: usize, refusal: Refusal) -> Decision {
    let Some(rule) = settings.rules.get(index) else {
        return Decision::Pass;
    };
    let Refusal {
        problem,
        status,
        detail,
    } = refusal;
    if rule.observes() {
        return Decision::Observed(problem);
    }
    let problem_settings = ProblemSettings::new(&settings.plan, rule.policy.retry_after_s);
    let reply = problem.reply_as(status, &problem_settings, Some(&detail));
    Decision::Refuse(problem, reply)
}

/// Refuses what no rule needs to match, unless all of them only observe.
fn refuse_anywhere(settings: &Settings, detail: &str) -> Decision {
    let index = settings
        .rules
        .iter()
        .position(|rule| !rule.observes())
        .unwrap_or(0);
    refuse(
        settings,
        index,
        Refusal::new(Problem::UnsupportedRequest, detail),
    )
}

/// A request that a rule may concern and that the host does not let us read is not passed.
fn unreadable() -> Decision {
    let problem = Problem::UnsupportedRequest;
    Decision::Refuse(problem, problem.reply(&ProblemSettings::DEFAULT, None))
}

fn protect<H: Host>(
    settings: &Rc<Settings>,
    rule: &Rc<Rule>,
    headers: Headers,
    matched: &rules::Matched,
    method: Bytes,
    host: &H,
    end: bool,
) -> Result<Option<(Request, Hasher, Body)>, Refusal> {
    let policy = &rule.policy;
    let plan = &settings.plan;
    supported(&headers)?;
    nominated(settings, &headers)?;
    if let Some(name) = upstream::cannot_be_changed(settings.profile, policy, &headers) {
        let detail = format!("This gateway cannot keep the header {name} from the upstream.");
        return Err(Refusal::new(Problem::UnsupportedRequest, detail));
    }

    let values: Vec<&[u8]> = headers.all(&policy.key.header).map(Bytes::as_ref).collect();
    let client_key = if values.is_empty() {
        match without_key(policy.key.when_missing) {
            Ok(true) => None,
            Ok(false) => return Ok(None),
            Err(problem) => {
                let detail = format!("This operation requires the header {}.", policy.key.header);
                return Err(Refusal::new(problem, detail));
            }
        }
    } else {
        let key = key::parse(&values, policy.key.syntax).map_err(|error| {
            Refusal::new(
                Problem::InvalidKey,
                format!("Header {}: {error}.", policy.key.header),
            )
        })?;
        Some(key)
    };

    let property = match &policy.scope {
        Scope::Property(path) => {
            host.property(&path.iter().map(String::as_str).collect::<Vec<_>>())
        }
        _ => None,
    };
    let tenant = tenant::resolve(&policy.scope, &headers.0, property.as_deref())
        .map_err(|error| Refusal::new(Problem::TenantMissing, sentence(&error.to_string())))?;

    if !end
        && headers
            .content_length()
            .is_some_and(|n| n > policy.max_body_bytes as u64)
    {
        return Err(too_large(policy));
    }

    let body = match settings.profile {
        Profile::Envoy if end => Body::None,
        Profile::Envoy => Body::Coming,
        Profile::Kong => body_in_kong(&headers, plan.kong_late_bodies, policy, host)?,
    };

    let authority = match settings.profile {
        Profile::Envoy => headers.get(":authority"),
        Profile::Kong => headers.get(kong::HOST_HEADER),
    };
    let authority = authority.cloned().unwrap_or_default();
    let scheme = settings.schemes.get(matched.index);
    let hasher = Hasher::new(
        &policy.fingerprint,
        scheme
            .copied()
            .unwrap_or_else(|| fingerprint::scheme(&policy.fingerprint)),
        &method,
        &matched.path,
        matched.query,
        &authority,
        &headers.0,
    );
    let request = Request {
        settings: Rc::clone(settings),
        rule: Rc::clone(rule),
        tenant,
        client_key,
        method,
        path: matched.path.clone().into_owned(),
        headers,
    };
    Ok(Some((request, hasher, body)))
}

/// Where somebody has read the body already, it is there. Otherwise it is told later, unless it is
/// empty. A call from the body callback, with `proxy_ignore_client_abort on`, makes nginx send the
/// request twice (measured): so it is only made where the configuration says that this is off, and
/// never for an execution that is to outlive its client.
fn body_in_kong<H: Host>(
    headers: &Headers,
    late: bool,
    policy: &Policy,
    host: &H,
) -> Result<Body, Refusal> {
    let announced = kong::Body::of(headers);
    if announced == kong::Body::None && headers.has("content-length") {
        return Ok(Body::None);
    }
    let length = headers
        .content_length()
        .and_then(|n| usize::try_from(n).ok());
    let read = host
        .buffer(Buffer::Request, 0, length.unwrap_or(ANY_LENGTH))
        .ok()
        .filter(|body| !body.is_empty() && length.is_none_or(|n| n == body.len()));
    if let Some(body) = read {
        if body.len() > policy.max_body_bytes {
            return Err(too_large(policy));
        }
        return Ok(Body::Whole(body));
    }
    if announced == kong::Body::None {
        return Ok(Body::None);
    }
    if host
        .property(&kong::BODY_FILE)
        .is_some_and(|f| !f.is_empty())
    {
        return Err(Refusal::new(Problem::BodyTooLarge, kong::SPILLED));
    }
    if announced == kong::Body::Unannounced {
        return Err(length_required());
    }
    let safe = late && policy.execution == Execution::Inline;
    if !safe && policy.mode == Mode::Enforce {
        return Err(Refusal::new(Problem::Misconfigured, kong::UNREAD));
    }
    Ok(Body::Coming)
}

/// More than any body that nginx keeps in memory.
const ANY_LENGTH: usize = i32::MAX as usize;

fn too_large(policy: &Policy) -> Refusal {
    let cap = policy.max_body_bytes;
    let detail = format!("This operation accepts request bodies of at most {cap} bytes.");
    Refusal::new(Problem::BodyTooLarge, detail)
}

/// In Kong, an empty chunked body is never announced: it would pass without a decision.
fn length_required() -> Refusal {
    Refusal {
        problem: Problem::UnsupportedRequest,
        status: LENGTH_REQUIRED,
        detail: "This gateway needs to know the length of the body beforehand: send \
                 Content-Length, not a chunked body."
            .to_owned(),
    }
}

/// Upgrades and gRPC cannot be replayed. No header exempts a matched request from protection, so
/// they are refused, not passed.
fn supported(headers: &Headers) -> Result<(), Refusal> {
    let refusal = |what: &str| {
        Err(Refusal::new(
            Problem::UnsupportedRequest,
            format!("{what} cannot be protected against repeated execution."),
        ))
    };
    if headers.has("upgrade")
        || headers
            .get(":method")
            .is_some_and(|m| m.as_ref() == b"CONNECT")
    {
        return refusal("Upgrades");
    }
    let is_grpc = |value: &Bytes| {
        value
            .trim_ascii_start()
            .to_ascii_lowercase()
            .starts_with(b"application/grpc")
    };
    if headers.all("content-type").any(is_grpc) {
        return refusal("gRPC calls");
    }
    Ok(())
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
