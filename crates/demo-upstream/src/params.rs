//! The query parameters that steer a charge; the crate's documentation lists them.

use std::time::Duration;

use http::{HeaderName, HeaderValue, StatusCode};
use percent_encoding::percent_decode_str;

/// Where the connection is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reset {
    /// After the request was read, before any byte of the answer.
    Before,
    /// After the answer's headers.
    Headers,
    /// After half of the answer's body.
    Mid,
}

/// What the answer's body is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum Content {
    /// The charge as JSON.
    #[default]
    Charge,
    /// What was received, as JSON.
    Echo,
    /// So many pseudo-random octets.
    Random(u64),
    /// Exactly this text.
    Literal(Vec<u8>),
    /// Nothing.
    Empty,
}

/// How one charge is to be executed and answered.
#[derive(Debug, Clone, Default)]
pub struct Params {
    pub(crate) status: Option<StatusCode>,
    pub(crate) delay: Option<Duration>,
    pub(crate) content: Content,
    pub(crate) chunked: bool,
    pub(crate) chunk_bytes: Option<usize>,
    pub(crate) chunk_delay: Option<Duration>,
    pub(crate) trailers: bool,
    pub(crate) reset: Option<Reset>,
    pub(crate) set_cookie: bool,
    pub(crate) retry_after: Option<u64>,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
}

impl Params {
    /// Reads a query string; the error names the parameter that is wrong.
    pub fn parse(query: &str) -> Result<Self, String> {
        let mut params = Self::default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, "1"));
            let value: Vec<u8> = percent_decode_str(value).collect();
            params.set(name, &value).ok_or_else(|| {
                format!("bad value of `{name}`: {}", String::from_utf8_lossy(&value))
            })?;
        }
        Ok(params)
    }

    /// Applies one parameter; `None` for a bad value.
    fn set(&mut self, name: &str, value: &[u8]) -> Option<()> {
        match name {
            "status" => {
                let code = number(value)?;
                let code = u16::try_from(code)
                    .ok()
                    .filter(|code| (200..600).contains(code))?;
                self.status = Some(StatusCode::from_u16(code).ok()?);
            }
            "no_content" if flag(value)? => self.status = Some(StatusCode::NO_CONTENT),
            "delay_ms" => self.delay = Some(Duration::from_millis(number(value)?)),
            "bytes" => self.content = Content::Random(number(value)?),
            "body" => self.content = Content::Literal(value.to_vec()),
            "content_length" => {
                (number(value)? == 0).then_some(())?;
                self.content = Content::Empty;
            }
            "echo" if flag(value)? => self.content = Content::Echo,
            "chunked" => self.chunked = flag(value)?,
            "chunk_bytes" => {
                let size = usize::try_from(number(value)?)
                    .ok()
                    .filter(|size| *size > 0)?;
                self.chunk_bytes = Some(size);
                self.chunked = true;
            }
            "chunk_delay_ms" => {
                self.chunk_delay = Some(Duration::from_millis(number(value)?));
                self.chunked = true;
            }
            "trailers" => self.trailers = flag(value)?,
            "reset" => {
                self.reset = Some(match value {
                    b"before" => Reset::Before,
                    b"headers" => Reset::Headers,
                    b"mid" => Reset::Mid,
                    _ => return None,
                });
            }
            "set_cookie" => self.set_cookie = flag(value)?,
            "retry_after" => self.retry_after = Some(number(value)?),
            "header" => {
                let colon = value.iter().position(|byte| *byte == b':')?;
                let (name, value) = (value.get(..colon)?, value.get(colon + 1..)?);
                let name = HeaderName::from_bytes(name).ok()?;
                let value = HeaderValue::from_bytes(value.trim_ascii()).ok()?;
                self.headers.push((name, value));
            }
            _ => {}
        }
        Some(())
    }
}

fn number(value: &[u8]) -> Option<u64> {
    std::str::from_utf8(value).ok()?.parse().ok()
}

fn flag(value: &[u8]) -> Option<bool> {
    match value {
        b"1" | b"true" => Some(true),
        b"0" | b"false" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_together() {
        let query = "status=503&delay_ms=5&bytes=9&chunk_delay_ms=2&trailers=1&reset=mid\
                     &set_cookie=1&retry_after=7&header=x-a:%20b%26&header=x-a:c&other=9";
        let params = Params::parse(query).unwrap();
        assert_eq!(params.status, Some(StatusCode::SERVICE_UNAVAILABLE));
        assert_eq!(params.delay, Some(Duration::from_millis(5)));
        assert_eq!(params.content, Content::Random(9));
        assert!(params.chunked && params.trailers && params.set_cookie);
        assert_eq!(params.reset, Some(Reset::Mid));
        assert_eq!(params.retry_after, Some(7));
        let values: Vec<_> = params
            .headers
            .iter()
            .map(|(_, value)| value.as_bytes())
            .collect();
        assert_eq!(values, [b"b&" as &[u8], b"c"]);
    }

    #[test]
    fn bad_values_are_named() {
        for query in [
            "status=99",
            "status=600",
            "status=x",
            "delay_ms=-1",
            "bytes=1k",
            "content_length=4",
            "chunked=maybe",
            "chunk_bytes=0",
            "reset=after",
            "header=novalue",
            "header=a%0ab:c",
            "header=a:b%0d%0ac",
        ] {
            let error = Params::parse(query).unwrap_err();
            let name = query.split('=').next().unwrap();
            assert!(error.contains(&format!("`{name}`")), "{query}: {error}");
        }
    }
}
