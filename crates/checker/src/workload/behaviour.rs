//! What an upstream does with a request, and what that means for its key.

use serde::{Deserialize, Serialize};

/// What the upstream is asked to do. It travels in a header that no fingerprint covers, so the
/// attempts of one key can meet different ends.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Behaviour {
    /// The answer's status.
    pub status: u16,
    /// With `Retry-After`.
    #[serde(default)]
    pub retry_after: bool,
    /// How long the execution takes.
    #[serde(default)]
    pub delay_ms: u64,
    /// So many random octets instead of a JSON document.
    #[serde(default)]
    pub bytes: Option<u32>,
    /// In pieces, without a length.
    #[serde(default)]
    pub chunked: bool,
    /// With an entity tag and two links, which replays keep.
    #[serde(default)]
    pub more_headers: bool,
    /// Where the connection is cut.
    #[serde(default)]
    pub reset: Option<Reset>,
}

/// Where an upstream cuts the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reset {
    /// Executed, and not a byte of an answer.
    Before,
    /// After the headers.
    Headers,
    /// In the middle of the body.
    Mid,
}

/// What an execution means for its key, by the design's list of answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Kept and replayed.
    Completed,
    /// A retry executes.
    Failed,
    /// May have been done.
    Unknown,
}

/// Larger answers are not kept: the default of `max_response_bytes`.
const KEPT_BYTES: u32 = 1 << 20;

impl Behaviour {
    /// A quick success.
    pub fn created() -> Self {
        Self {
            status: 201,
            ..Self::default()
        }
    }

    /// This status, at once.
    pub fn answering(status: u16) -> Self {
        Self {
            status,
            ..Self::default()
        }
    }

    /// As the upstream reads it in `x-charge`.
    pub fn header(&self) -> String {
        let mut pairs = vec![format!("status={}", self.status)];
        if self.retry_after {
            pairs.push("retry_after=1".to_owned());
        }
        if self.delay_ms > 0 {
            pairs.push(format!("delay_ms={}", self.delay_ms));
        }
        if let Some(bytes) = self.bytes {
            pairs.push(format!("bytes={bytes}"));
        }
        if self.chunked {
            pairs.push("chunked=1".to_owned());
        }
        if self.more_headers {
            for header in ["etag:%22v1%22", "link:%3C%2Fa%3E", "link:%3C%2Fb%3E"] {
                pairs.push(format!("header={header}"));
            }
        }
        if let Some(reset) = self.reset {
            let at = match reset {
                Reset::Before => "before",
                Reset::Headers => "headers",
                Reset::Mid => "mid",
            };
            pairs.push(format!("reset={at}"));
        }
        pairs.join("&")
    }

    /// Whether an answer that counts as done can be replayed.
    pub fn is_kept(&self) -> bool {
        self.bytes.is_none_or(|bytes| bytes <= KEPT_BYTES)
    }

    /// What it means under the default `outcomes`, if the gateway gets its answer: one that takes
    /// longer than the gateway waits is unknown, unless the gateway itself was late.
    pub fn class(&self) -> Class {
        if self.reset.is_some() {
            return Class::Unknown;
        }
        match self.status {
            307 | 308 | 401 | 403 | 407 | 408 | 421 | 423 | 425 | 429 => Class::Failed,
            409 | 503 if self.retry_after => Class::Failed,
            500.. => Class::Unknown,
            _ => Class::Completed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes() {
        let class = |status, retry_after| {
            let behaviour = Behaviour {
                retry_after,
                ..Behaviour::answering(status)
            };
            behaviour.class()
        };
        for status in [200, 201, 204, 402, 404, 409, 422] {
            assert_eq!(class(status, false), Class::Completed, "{status}");
        }
        for status in [307, 308, 401, 429] {
            assert_eq!(class(status, false), Class::Failed, "{status}");
        }
        assert_eq!(class(409, true), Class::Failed);
        assert_eq!(class(404, true), Class::Completed);
        for status in [500, 502, 503, 504] {
            assert_eq!(class(status, false), Class::Unknown, "{status}");
        }
        assert_eq!(class(503, true), Class::Failed);
        assert_eq!(class(500, true), Class::Unknown);
        let cut = Behaviour {
            reset: Some(Reset::Mid),
            ..Behaviour::created()
        };
        assert_eq!(cut.class(), Class::Unknown);
    }
}
