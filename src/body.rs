//! What is known of a protected request's body when its headers have come.

use crate::host::{Buffer, Host};
use crate::kong;
use crate::profile::Profile;
use bytes::Bytes;
use idempotency_core::config::{Execution, Mode};
use idempotency_core::decide::too_large;
use idempotency_core::hop::MayBe;
use idempotency_core::problem::Problem;
use idempotency_core::reply::LocalReply;
use idempotency_core::request::Request;
use std::borrow::Cow;

/// Status of a refused request whose body has no length (RFC 9110 §15.5.12).
pub const LENGTH_REQUIRED: u16 = 411;

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

/// A body that cannot be compared, why, and what its client is told.
pub type Refused = (Problem, Cow<'static, str>, LocalReply);

/// What is known of the body of the current stream. `late`: see [`crate::settings::Settings`].
pub fn of<H: Host>(
    profile: Profile,
    request: &Request,
    late: bool,
    host: &H,
    end: bool,
) -> Result<Body, Refused> {
    match profile {
        Profile::Envoy if end => Ok(Body::None),
        Profile::Envoy => Ok(Body::Coming),
        Profile::Kong => in_kong(request, late, host),
    }
}

/// Where somebody has read the body already, it is there. Otherwise it is told later, unless it is
/// empty. A call from the body callback, with `proxy_ignore_client_abort on`, makes nginx send the
/// request twice (measured): so it is only made where the configuration says that this is off, and
/// never for an execution that is to outlive its client.
fn in_kong<H: Host>(request: &Request, late: bool, host: &H) -> Result<Body, Refused> {
    let (policy, headers) = (request.policy(), &request.headers);
    let refused = |problem: Problem, detail: Cow<'static, str>| {
        let reply = request.problem(None, problem, Some(&detail));
        Err((problem, detail, reply))
    };
    let announced = kong::AnnouncedBody::of(headers);
    if announced == kong::AnnouncedBody::None && headers.has("content-length") {
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
            return refused(Problem::BodyTooLarge, too_large(policy).into());
        }
        return Ok(Body::Whole(body));
    }
    if announced == kong::AnnouncedBody::None {
        // HTTP/2 and 3 can bring one all the same, and the key may be in it.
        return match policy.key.from {
            Some(_) => Err(length_required(request)),
            None => Ok(Body::None),
        };
    }
    if host
        .property(&kong::BODY_FILE)
        .is_some_and(|f| !f.is_empty())
    {
        return refused(Problem::BodyTooLarge, kong::SPILLED.into());
    }
    if announced == kong::AnnouncedBody::Unannounced {
        return Err(length_required(request));
    }
    let safe = late && policy.execution == Execution::Inline;
    if !safe && policy.mode == Mode::Enforce {
        return refused(Problem::Misconfigured, kong::UNREAD.into());
    }
    Ok(Body::Coming)
}

/// More than any body that nginx keeps in memory.
const ANY_LENGTH: usize = i32::MAX as usize;

/// In Kong, an empty chunked body is never announced: it would pass without a decision.
fn length_required(request: &Request) -> Refused {
    let problem = Problem::UnsupportedRequest;
    let detail = "This gateway needs to know the length of the body beforehand: send \
                  Content-Length, not a chunked body.";
    let unsent = MayBe::NotExecuted;
    let reply = request.problem_as(None, problem, LENGTH_REQUIRED, Some(detail), unsent);
    (problem, detail.into(), reply)
}
