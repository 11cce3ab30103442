//! Where a service is.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

const FORMS: &str = "write http://host:port, https://host:port or unix:/path";

/// Where a service is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServiceUrl {
    /// `http://host:port`.
    Http(String),
    /// `https://host:port`.
    Https(String),
    /// `unix:/path`.
    Unix(PathBuf),
}

impl FromStr for ServiceUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<ServiceUrl, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            if path.is_empty() {
                return Err("`unix:` needs a path".into());
            }
            return Ok(ServiceUrl::Unix(PathBuf::from(path)));
        }
        let (rest, is_https) = match (text.strip_prefix("http://"), text.strip_prefix("https://")) {
            (Some(rest), _) => (rest, false),
            (_, Some(rest)) => (rest, true),
            _ => return Err(FORMS.into()),
        };
        let authority = rest.trim_end_matches('/');
        let parsed: http::uri::Authority = authority.parse().map_err(|_| FORMS.to_owned())?;
        if authority.contains('@') {
            return Err("a URL holds no credentials; use --token-file".into());
        }
        let whole = |port| match parsed.port() {
            Some(_) => authority.to_owned(),
            None => format!("{authority}:{port}"),
        };
        Ok(match is_https {
            true => ServiceUrl::Https(whole(443)),
            false => ServiceUrl::Http(whole(80)),
        })
    }
}

impl fmt::Display for ServiceUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ServiceUrl::Http(authority) => f.write_str(authority),
            ServiceUrl::Https(authority) => write!(f, "https://{authority}"),
            ServiceUrl::Unix(path) => path.display().fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let parse = |text: &str| text.parse::<ServiceUrl>();
        assert_eq!(
            parse("http://h:1/").unwrap(),
            ServiceUrl::Http("h:1".into())
        );
        assert_eq!(parse("http://h").unwrap(), ServiceUrl::Http("h:80".into()));
        let https = |authority: &str| ServiceUrl::Https(authority.into());
        assert_eq!(parse("https://h").unwrap(), https("h:443"));
        assert_eq!(parse("https://[::1]:7480/").unwrap(), https("[::1]:7480"));
        assert_eq!(parse("unix:/x").unwrap(), ServiceUrl::Unix("/x".into()));
        for bad in [
            "",
            "h:1",
            "ftp://h",
            "https://",
            "unix:",
            "http://",
            "http://u:p@h",
            "http://h/path",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
