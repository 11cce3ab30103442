//! Where the service listens.

use crate::auth::Way;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// One listener's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// `127.0.0.1:7480`, `[::]:7480`; port 0 takes a free one. With TLS, if a certificate is configured.
    Tcp(SocketAddr),
    /// `plain:127.0.0.1:7480`: never with TLS.
    Plain(SocketAddr),
    /// `unix:/run/idempotencyd.sock`.
    Unix(PathBuf),
}

impl Listen {
    /// Who can reach it.
    pub fn way(&self) -> Way {
        match self {
            Listen::Tcp(address) | Listen::Plain(address)
                if address.ip().to_canonical().is_loopback() =>
            {
                Way::Loopback
            }
            Listen::Tcp(_) | Listen::Plain(_) => Way::Network,
            Listen::Unix(_) => Way::Unix,
        }
    }

    /// Its address, if it is a TCP port.
    pub fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Listen::Tcp(address) | Listen::Plain(address) => Some(*address),
            Listen::Unix(_) => None,
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
        let parsed = match text.strip_prefix("plain:") {
            Some(address) => address.parse().map(Listen::Plain),
            None => text.parse().map(Listen::Tcp),
        };
        parsed.map_err(|_| {
            format!("`{text}` is not an address; write e.g. 127.0.0.1:7480 or unix:/path")
        })
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Listen::Tcp(address) => address.fmt(f),
            Listen::Plain(address) => write!(f, "plain:{address}"),
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
            ("plain:127.0.0.1:1", Way::Loopback),
            ("unix:/x", Way::Unix),
            ("0.0.0.0:1", Way::Network),
            ("[::]:1", Way::Network),
            ("10.0.0.1:1", Way::Network),
        ] {
            let listen: Listen = text.parse().unwrap();
            assert_eq!(listen.way(), way, "{text}");
            assert_eq!(listen.to_string(), text);
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
