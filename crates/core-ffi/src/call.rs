//! What came of a call to the service.

use idempotency_protocol::Answer;
use std::fmt;

/// There is no usable answer, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallFailed {
    /// No connection, nothing in time, or the connection was cut.
    Unanswered,
    /// An HTTP answer with another status than 200.
    Status(u16),
    /// What came with status 200 cannot be read as answers of the service.
    Undecodable,
}

impl CallFailed {
    /// Whether the service, or the way to it, is down. Only then may a rule let requests pass without
    /// protection: a wrong token or a wrong address must not switch protection off.
    pub fn is_outage(self) -> bool {
        matches!(self, CallFailed::Unanswered | CallFailed::Status(500..=599))
    }
}

/// For the operator: what happened, and where to look.
impl fmt::Display for CallFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CallFailed::Unanswered => f.write_str(
                "no answer within service.timeout_ms; look at whether the service is up and reachable at \
                 service.target",
            ),
            CallFailed::Status(status @ (401 | 403)) => write!(
                f,
                "status {status}: the service does not accept service.token as a gateway's"
            ),
            CallFailed::Status(status @ 500..=599) => {
                write!(f, "status {status}: the service is not ready")
            }
            CallFailed::Status(status) => write!(
                f,
                "status {status}: look at whether service.target is an idempotencyd, and which version"
            ),
            CallFailed::Undecodable => f.write_str(
                "what came cannot be read; look at whether service.target is an idempotencyd, and which version",
            ),
        }
    }
}

/// What came of one operation.
pub type CallResult = Result<Answer, CallFailed>;
