//! What endpoints may refuse, for the OpenAPI document: declared once, named by each endpoint.

#![expect(dead_code, reason = "they describe answers, and are never made")]

use super::model::ProblemDocument;
use utoipa::IntoResponses;

/// Every endpoint that reads parameters and asks for a token.
#[derive(IntoResponses)]
pub(crate) enum Unaccepted {
    /// Bad parameters or a bad body; the detail names what and where
    #[response(status = 400, content_type = "application/problem+json")]
    Parameters(ProblemDocument),
    /// No valid token
    #[response(status = 401, content_type = "application/problem+json")]
    Token(ProblemDocument),
    /// A token of another role
    #[response(status = 403, content_type = "application/problem+json")]
    Role(ProblemDocument),
}

/// No record that the endpoint could work on.
#[derive(IntoResponses)]
#[response(
    status = 404,
    description = "No such key, or no stored answer where one is asked for",
    content_type = "application/problem+json"
)]
pub(crate) struct NoRecord(ProblemDocument);

/// The record is not as the operator who changes it thought.
#[derive(IntoResponses)]
pub(crate) enum Unchanged {
    /// Executing, and `force` was not set
    #[response(status = 409, content_type = "application/problem+json")]
    Executing(ProblemDocument),
    /// The record has another version
    #[response(status = 412, content_type = "application/problem+json")]
    Version(ProblemDocument),
}
