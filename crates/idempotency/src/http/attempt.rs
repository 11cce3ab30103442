//! What a handler may know of its execution.

use bytes::Bytes;
use http::HeaderValue;
use idempotency_core::upstream::record_query;
use idempotency_protocol::{Grant, LookupKey};

/// The execution that a handler is: in the request's extensions, and with feature `axum` an extractor. The
/// request carries the same in the headers `Idempotency-Fence`, `-Attempt` and `-Record`.
///
/// Requests that are not protected have none: a handler for both asks for `Option<Attempt>`.
///
/// ```
/// use http::{Request, Response};
/// use idempotency::http::Attempt;
///
/// async fn create<B>(request: Request<B>) -> Result<Response<String>, std::convert::Infallible> {
///     let fence = request.extensions().get::<Attempt>().map(Attempt::fence);
///     // `UPDATE … WHERE fence < $1`: an execution that was overtaken changes nothing.
///     Ok(Response::new(format!("done under fence {fence:?}")))
/// }
/// # let _ = create::<String>;
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    fence: u64,
    number: u32,
    /// ASCII, as it is in the header.
    record: HeaderValue,
}

/// The query of a record is ASCII without control characters, so it is the value of a header without a copy.
fn value(query: String) -> HeaderValue {
    HeaderValue::from_maybe_shared(Bytes::from(query)).unwrap_or(HeaderValue::from_static(""))
}

impl Attempt {
    pub(super) fn new(grant: Grant, key: &LookupKey) -> Attempt {
        Attempt {
            fence: grant.fence,
            number: grant.attempt,
            record: value(record_query(key)),
        }
    }

    /// A number that only grows per key: a resource that remembers the highest one can refuse an execution
    /// that was overtaken.
    pub fn fence(&self) -> u64 {
        self.fence
    }

    /// 1 for the first execution under this key.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Names the record: ready as the query of the service's settle call.
    pub fn record(&self) -> &str {
        self.record.to_str().unwrap_or_default()
    }

    /// As it is in the header.
    pub(super) fn record_value(&self) -> HeaderValue {
        self.record.clone()
    }

    /// As it is in the header. Almost all are the first.
    pub(super) fn number_value(&self) -> HeaderValue {
        match self.number {
            1 => HeaderValue::from_static("1"),
            number => number.into(),
        }
    }
}

#[cfg(feature = "axum")]
mod extract {
    use super::Attempt;
    use axum::extract::{FromRequestParts, OptionalFromRequestParts};
    use axum::response::{IntoResponse, Response};
    use http::request::Parts;
    use http::StatusCode;
    use std::convert::Infallible;

    /// A handler asks for its [`Attempt`], and its request is not protected: its route lacks the layer, or
    /// no rule matches it. Answers 500.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct NotProtected;

    impl std::fmt::Display for NotProtected {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("this request is not protected against repeated execution")
        }
    }

    impl std::error::Error for NotProtected {}

    impl IntoResponse for NotProtected {
        fn into_response(self) -> Response {
            (StatusCode::INTERNAL_SERVER_ERROR, self.to_string()).into_response()
        }
    }

    impl<S: Sync> FromRequestParts<S> for Attempt {
        type Rejection = NotProtected;

        async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Attempt, NotProtected> {
            let attempt = parts.extensions.get::<Attempt>();
            attempt.cloned().ok_or(NotProtected)
        }
    }

    impl<S: Sync> OptionalFromRequestParts<S> for Attempt {
        type Rejection = Infallible;

        async fn from_request_parts(
            parts: &mut Parts,
            _: &S,
        ) -> Result<Option<Attempt>, Infallible> {
            Ok(parts.extensions.get::<Attempt>().cloned())
        }
    }
}

#[cfg(feature = "axum")]
pub use extract::NotProtected;
