//! Whether a request that shows no valid token may be looked at at all.
//!
//! A browser sends requests to loopback ports for any page that asks it to. Three things give such
//! a request away: the name that the page reached us by (a name of the attacker's that resolves to
//! this machine), the page's origin, and the browser's own word that the request crosses sites.

use http::{header, HeaderMap, Uri};
use std::net::IpAddr;

/// Host names by which the service expects to be called, in lower case, without ports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hosts(Vec<String>);

/// Why a request is not looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Foreign {
    /// It names another host, or none.
    Host,
    /// A page of another origin sends it.
    Origin,
}

impl Foreign {
    /// Its name in metrics.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Foreign::Host => "host",
            Foreign::Origin => "origin",
        }
    }
}

impl Hosts {
    /// These, beside the loopback names and the service's own.
    pub fn new(configured: impl IntoIterator<Item = String>) -> Hosts {
        let lower = |name: String| name.trim().trim_end_matches('.').to_ascii_lowercase();
        Hosts(configured.into_iter().map(lower).collect())
    }

    fn expects(&self, authority: &str) -> bool {
        let Some(host) = host(authority) else {
            return false;
        };
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let loopback = match bare.parse::<IpAddr>() {
            Ok(ip) => ip.to_canonical().is_loopback(),
            Err(_) => host == "localhost" || host == "idempotencyd",
        };
        loopback || self.0.iter().any(|name| *name == host || *name == bare)
    }
}

/// The host of an authority, without its port; brackets stay.
fn host(authority: &str) -> Option<&str> {
    // Credentials in front of a host are nothing that a gateway sends.
    if authority.is_empty() || authority.contains('@') {
        return None;
    }
    match authority.rfind(']') {
        Some(end) => authority.get(..=end),
        None => authority.split(':').next(),
    }
}

/// Looks at a request without a valid token. Over a Unix socket its host says nothing.
pub(crate) fn check(
    hosts: &Hosts,
    uri: &Uri,
    headers: &HeaderMap,
    over_tcp: bool,
) -> Result<(), Foreign> {
    let mut named = Vec::with_capacity(1);
    for value in headers.get_all(header::HOST) {
        named.push(value.to_str().map_err(|_| Foreign::Host)?);
    }
    if let Some(authority) = uri.authority() {
        named.push(authority.as_str());
    }
    if over_tcp && (named.is_empty() || !named.iter().all(|name| hosts.expects(name))) {
        return Err(Foreign::Host);
    }
    let own = |origin: &str| {
        let authority = origin
            .strip_prefix("http://")
            .or_else(|| origin.strip_prefix("https://"));
        authority.is_some_and(|a| named.iter().any(|name| name.eq_ignore_ascii_case(a)))
    };
    for origin in headers.get_all(header::ORIGIN) {
        if !origin.to_str().is_ok_and(own) {
            return Err(Foreign::Origin);
        }
    }
    for site in headers.get_all("sec-fetch-site") {
        if site.as_bytes().eq_ignore_ascii_case(b"cross-site") {
            return Err(Foreign::Origin);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(uri: &str, headers: &[(&str, &str)], over_tcp: bool) -> Result<(), Foreign> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name: http::HeaderName = name.parse().unwrap();
            map.append(name, value.parse().unwrap());
        }
        let hosts = Hosts::new(["Idem.Internal.".to_owned(), "10.1.2.3".to_owned()]);
        check(&hosts, &uri.parse().unwrap(), &map, over_tcp)
    }

    #[test]
    fn hosts() {
        for expected in [
            "localhost",
            "LOCALHOST:7480",
            "localhost.:1",
            "127.0.0.1:7480",
            "127.9.9.9",
            "[::1]:7480",
            "[::1]",
            "[::ffff:127.0.0.1]:1",
            "idempotencyd:7480",
            "idem.internal",
            "10.1.2.3:7480",
        ] {
            assert_eq!(ask("/", &[("host", expected)], true), Ok(()), "{expected}");
        }
        for foreign in [
            "",
            "attacker.example",
            "localhost.attacker.example",
            "127.0.0.1.attacker.example",
            "localhost@attacker.example",
            "attacker.example@localhost",
            "10.1.2.4",
            "0.0.0.0",
            "xlocalhost",
            "[::2]",
            "[attacker]",
        ] {
            let seen = ask("/", &[("host", foreign)], true);
            assert_eq!(seen, Err(Foreign::Host), "{foreign}");
            assert_eq!(ask("/", &[("host", foreign)], false), Ok(()), "{foreign}");
        }
        assert_eq!(ask("/", &[], true), Err(Foreign::Host), "none at all");
        // Each that is named must be expected.
        let two = [("host", "localhost"), ("host", "attacker.example")];
        assert_eq!(ask("/", &two, true), Err(Foreign::Host));
        let absolute = "http://attacker.example/v1/records";
        assert_eq!(
            ask(absolute, &[("host", "localhost")], true),
            Err(Foreign::Host)
        );
        assert_eq!(ask("http://localhost:1/", &[], true), Ok(()), "HTTP/2");
    }

    #[test]
    fn origins() {
        let host = ("host", "localhost:7480");
        for (name, value, seen) in [
            ("origin", "http://localhost:7480", Ok(())),
            ("origin", "https://localhost:7480", Ok(())),
            ("origin", "http://localhost:3000", Err(Foreign::Origin)),
            ("origin", "http://attacker.example", Err(Foreign::Origin)),
            ("origin", "null", Err(Foreign::Origin)),
            ("origin", "", Err(Foreign::Origin)),
            ("sec-fetch-site", "same-origin", Ok(())),
            ("sec-fetch-site", "none", Ok(())),
            ("sec-fetch-site", "cross-site", Err(Foreign::Origin)),
        ] {
            for over_tcp in [true, false] {
                let asked = ask("/", &[host, (name, value)], over_tcp);
                assert_eq!(asked, seen, "{name}: {value}");
            }
        }
    }
}
