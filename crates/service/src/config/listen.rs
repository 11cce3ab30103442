//! Where the service listens.

use crate::auth::Way;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// One listener's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// `127.0.0.1:7480`, `[::]:7480`; port 0 takes a free one.
    Tcp(SocketAddr),
    /// `unix:/run/idempotencyd.sock`.
    Unix(PathBuf),
}

impl Listen {
    /// Who can reach it.
    pub fn way(&self) -> Way {
        match self {
            Listen::Tcp(address) if address.ip().to_canonical().is_loopback() => Way::Loopback,
            Listen::Tcp(_) => Way::Network,
            Listen::Unix(_) => Way::Unix,
        }
    }
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Listen, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            if path.is_empty() {
                return Err("`unix:` needs a path, e.g. unix:/run/idempotencyd.sock".into());
            }
            return Ok(Listen::Unix(PathBuf::from(path)));
        }
        text.parse().map(Listen::Tcp).map_err(|_| {
            format!("`{text}` is not an address; write e.g. 127.0.0.1:7480 or unix:/path")
        })
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Listen::Tcp(address) => address.fmt(f),
            Listen::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways() {
        for (text, way) in [
            ("127.0.0.1:1", Way::Loopback),
            ("127.9.9.9:1", Way::Loopback),
            ("[::1]:1", Way::Loopback),
            ("[::ffff:127.0.0.1]:1", Way::Loopback),
            ("unix:/x", Way::Unix),
            ("0.0.0.0:1", Way::Network),
            ("[::]:1", Way::Network),
            ("10.0.0.1:1", Way::Network),
        ] {
            assert_eq!(text.parse::<Listen>().unwrap().way(), way, "{text}");
        }
        for text in [
            "",
            "localhost:80",
            "127.0.0.1",
            "unix:",
            "http://127.0.0.1:1",
        ] {
            assert!(text.parse::<Listen>().is_err(), "{text}");
        }
    }
}
