//! A handler's word that its answer means that nothing was done.

use http::Extensions;
use idempotency_core::classify::Source;

/// Put into the extensions of a response: nothing was done, whatever its status says. The key is then free,
/// for a retry as for a corrected request. For handlers that pass requests on, and could not: where nobody
/// was reached, a 502 is no unknown outcome.
///
/// ```
/// use http::{Response, StatusCode};
/// use idempotency::http::NotSent;
///
/// let mut response = Response::new("the warehouse cannot be reached");
/// *response.status_mut() = StatusCode::BAD_GATEWAY;
/// response.extensions_mut().insert(NotSent);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotSent;

/// Who made an answer, as its extensions say.
pub(super) fn source(extensions: &Extensions) -> Source {
    match extensions.get::<NotSent>() {
        Some(NotSent) => Source::Unsent,
        None => Source::Upstream,
    }
}
