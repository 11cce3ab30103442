//! Errors as RFC 9457 problem documents.

use super::door::Foreign;
use crate::auth::{Denied, Role};
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{header, HeaderValue, StatusCode};
use idempotency_protocol::{Fault, FaultCode, CONTENT_TYPE};
use idempotency_store::StoreError;
use serde_json::{json, Value};

/// Prefix of the `type` of the service's own problems.
pub(crate) const BASE: &str = "urn:idempotency-gateway:problem:";

/// Why a request got no ordinary answer.
#[derive(Debug)]
pub(crate) struct Problem {
    status: StatusCode,
    name: &'static str,
    title: &'static str,
    detail: String,
    record: Option<Value>,
}

impl Problem {
    fn new(
        status: StatusCode,
        name: &'static str,
        title: &'static str,
        detail: impl Into<String>,
    ) -> Problem {
        Problem {
            status,
            name,
            title,
            detail: detail.into(),
            record: None,
        }
    }

    pub(crate) fn bad_request(detail: impl Into<String>) -> Problem {
        Problem::new(
            StatusCode::BAD_REQUEST,
            "bad-request",
            "Malformed request",
            detail,
        )
    }

    pub(crate) fn bad_message(detail: impl Into<String>) -> Problem {
        Problem::new(
            StatusCode::BAD_REQUEST,
            "bad-message",
            "Not a protocol message",
            detail,
        )
    }

    pub(crate) fn too_large(detail: impl Into<String>) -> Problem {
        Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too-large",
            "Request too large",
            detail,
        )
    }

    pub(crate) fn unsupported_media_type() -> Problem {
        Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported-media-type",
            "Not the content type of a protocol message",
            format!("Send `Content-Type: {CONTENT_TYPE}`."),
        )
    }

    pub(crate) fn body_timeout() -> Problem {
        let detail = "The body did not arrive in time.";
        Problem::new(
            StatusCode::REQUEST_TIMEOUT,
            "body-timeout",
            "Body too slow",
            detail,
        )
    }

    pub(crate) fn overloaded(detail: impl Into<String>) -> Problem {
        Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "overloaded",
            "Too much at once",
            detail,
        )
    }

    pub(crate) fn unavailable(detail: impl Into<String>) -> Problem {
        let title = "The store cannot answer";
        Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "store-unavailable",
            title,
            detail,
        )
    }

    pub(crate) fn internal(detail: impl Into<String>) -> Problem {
        let title = "The service cannot answer";
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", title, detail)
    }

    pub(crate) fn not_found() -> Problem {
        let detail = "There is nothing at this path.";
        Problem::new(
            StatusCode::NOT_FOUND,
            "not-found",
            "No such resource",
            detail,
        )
    }

    pub(crate) fn method_not_allowed() -> Problem {
        let detail = "This path does not take this method.";
        let status = StatusCode::METHOD_NOT_ALLOWED;
        Problem::new(status, "method-not-allowed", "Method not allowed", detail)
    }

    pub(crate) fn no_such_key() -> Problem {
        let detail = "There is no record with this tenant, namespace, origin and key.";
        Problem::new(StatusCode::NOT_FOUND, "no-such-key", "No such key", detail)
    }

    pub(crate) fn nothing_stored() -> Problem {
        let detail = "There is no completed record with this tenant, namespace, origin and key.";
        let title = "No stored answer";
        Problem::new(StatusCode::NOT_FOUND, "nothing-stored", title, detail)
    }

    pub(crate) fn version_changed(record: Value) -> Problem {
        let detail = "The record has changed since that version; look at it and decide anew.";
        let status = StatusCode::PRECONDITION_FAILED;
        Problem::new(status, "version-changed", "The record has changed", detail)
            .with_record(record)
    }

    pub(crate) fn executing(record: Value) -> Problem {
        let detail = "An execution holds a live lease. `force` overrides it; then the execution \
                      may still take effect.";
        Problem::new(
            StatusCode::CONFLICT,
            "executing",
            "An execution holds the key",
            detail,
        )
        .with_record(record)
    }

    pub(crate) fn conflict(
        name: &'static str,
        title: &'static str,
        detail: &'static str,
    ) -> Problem {
        Problem::new(StatusCode::CONFLICT, name, title, detail)
    }

    fn with_record(self, record: Value) -> Problem {
        Problem {
            record: Some(record),
            ..self
        }
    }

    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    pub(crate) fn detail(&self) -> &str {
        &self.detail
    }

    pub(crate) fn name(&self) -> &'static str {
        self.name
    }
}

impl From<Denied> for Problem {
    fn from(denied: Denied) -> Problem {
        match denied {
            Denied::Unauthenticated => Problem::new(
                StatusCode::UNAUTHORIZED,
                "unauthenticated",
                "A valid bearer token is required",
                "Send `Authorization: Bearer …` with a token of the right role.",
            ),
            Denied::WrongRole(role) => Problem::new(
                StatusCode::FORBIDDEN,
                "wrong-role",
                "The token belongs to another role",
                format!("This needs a token of the {} role.", role.name()),
            ),
            Denied::Closed(role) => Problem::new(
                StatusCode::FORBIDDEN,
                "role-closed",
                "The role has no tokens",
                closed(role),
            ),
            Denied::NoCertificate => Problem::new(
                StatusCode::UNAUTHORIZED,
                "certificate-required",
                "A client certificate is required",
                "Connect with a certificate that an authority of tls_client_ca vouches for.",
            ),
            Denied::Ended => Problem::new(
                StatusCode::UNAUTHORIZED,
                "certificate-expired",
                "The client certificate has expired",
                "It was valid when this connection began. Connect with a new one.",
            ),
            Denied::NoRole => Problem::new(
                StatusCode::FORBIDDEN,
                "certificate-without-role",
                "The client certificate has no role",
                "None of its names is in tls_roles, or several of different roles are.",
            ),
            Denied::Mixed(certificate, token) => Problem::new(
                StatusCode::FORBIDDEN,
                "certificate-and-token",
                "Certificate and token are of different roles",
                format!(
                    "The client certificate has the {} role, and the token belongs to the {} role: \
                     together they may do nothing.",
                    certificate.name(),
                    token.name()
                ),
            ),
        }
    }
}

impl From<Foreign> for Problem {
    fn from(foreign: Foreign) -> Problem {
        match foreign {
            Foreign::Host => Problem::new(
                StatusCode::MISDIRECTED_REQUEST,
                "misdirected",
                "The host is not this service's",
                "Without a valid token, call the service by a name that it expects; see \
                 allowed_hosts in its settings.",
            ),
            Foreign::Origin => Problem::new(
                StatusCode::FORBIDDEN,
                "foreign-origin",
                "Sent by a page of another origin",
                "Without a valid token, only pages of the service itself are answered.",
            ),
        }
    }
}

fn closed(role: Role) -> String {
    let name = role.name();
    format!(
        "No token of the {name} role is configured; see {name}_tokens in the service's settings."
    )
}

impl From<Fault> for Problem {
    fn from(fault: Fault) -> Problem {
        match fault.code {
            FaultCode::Unavailable
            | FaultCode::Capacity
            | FaultCode::Quota
            | FaultCode::Untrusted => Problem::unavailable(fault.detail),
            FaultCode::Invalid => Problem::bad_request(fault.detail),
            FaultCode::Internal => Problem::internal(fault.detail),
        }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Problem {
        Fault::from(error).into()
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut document = json!({
            "type": format!("{BASE}{}", self.name),
            "title": self.title,
            "status": self.status.as_u16(),
            "detail": self.detail,
        });
        if let (Some(record), Some(object)) = (self.record, document.as_object_mut()) {
            object.insert("record".into(), record);
        }
        let mut response = Response::new(Body::from(document.to_string()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        let kind = HeaderValue::from_static("application/problem+json");
        headers.insert(header::CONTENT_TYPE, kind);
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        match self.status {
            StatusCode::SERVICE_UNAVAILABLE => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            StatusCode::UNAUTHORIZED => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            _ => {}
        }
        response
    }
}
