//! Who a client certificate says that its holder is.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use x509_cert::der::Decode;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::Certificate;

/// A name of a certificate: one of its subject alternative names. Its common name is never looked at, as no TLS
/// library of today does.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum San {
    /// `dns:gateway.example.org`, in lower case.
    Dns(String),
    /// `uri:spiffe://example.org/ns/edge/sa/envoy`, letter by letter.
    Uri(String),
}

impl San {
    /// Whether this, as an entry of the file of roles, means that name. An entry `uri:…/*` means all names below it.
    pub(crate) fn means(&self, name: &San) -> bool {
        match (self, name) {
            (San::Uri(entry), San::Uri(name)) => match entry.strip_suffix('*') {
                Some(begin) if begin.ends_with('/') => {
                    name.len() > begin.len() && name.starts_with(begin)
                }
                _ => entry == name,
            },
            (San::Dns(entry), San::Dns(name)) => entry == name,
            _ => false,
        }
    }
}

impl FromStr for San {
    type Err = String;

    fn from_str(text: &str) -> Result<San, String> {
        let san = match text.split_once(':') {
            Some(("dns", name)) => San::Dns(name.trim_end_matches('.').to_ascii_lowercase()),
            Some(("uri", uri)) => San::Uri(uri.to_owned()),
            _ => return Err(format!("`{text}`: write dns:NAME or uri:URI")),
        };
        let (San::Dns(name) | San::Uri(name)) = &san;
        let visible = |c: char| c.is_ascii_graphic();
        if name.is_empty() || !name.chars().all(visible) {
            return Err(format!("`{text}`: a name is made of visible ASCII"));
        }
        if matches!(&san, San::Uri(uri) if !uri.contains(':')) {
            return Err(format!(
                "`{text}`: a URI begins with its scheme, as spiffe://"
            ));
        }
        Ok(san)
    }
}

impl fmt::Display for San {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            San::Dns(name) => write!(f, "dns:{name}"),
            San::Uri(uri) => write!(f, "uri:{uri}"),
        }
    }
}

/// What a certificate that was verified says of its holder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its names; those of other kinds are left out.
    pub names: Vec<San>,
    /// The last second in which it is valid, since 1970.
    pub not_after: i64,
}

impl Identity {
    /// Of a certificate in DER.
    ///
    /// # Errors
    ///
    /// In words, if it cannot be read.
    pub(crate) fn read(der: &[u8]) -> Result<Identity, String> {
        let certificate = Certificate::from_der(der)
            .map_err(|e| e.to_string())?
            .tbs_certificate;
        let alternative = certificate.get::<SubjectAltName>();
        let alternative = alternative.map_err(|e| e.to_string())?;
        let names = alternative.into_iter().flat_map(|(_, names)| names.0);
        let names = names.filter_map(|name| match name {
            GeneralName::DnsName(name) => Some(San::Dns(name.as_str().to_ascii_lowercase())),
            GeneralName::UniformResourceIdentifier(uri) => Some(San::Uri(uri.as_str().to_owned())),
            _ => None,
        });
        let not_after = certificate.validity.not_after.to_unix_duration().as_secs();
        Ok(Identity {
            names: names.collect(),
            not_after: i64::try_from(not_after).unwrap_or(i64::MAX),
        })
    }

    /// Its time is over.
    pub(crate) fn has_ended(&self) -> bool {
        now() > self.not_after
    }

    /// For logs: its first name, in which nothing but visible ASCII is left.
    pub(crate) fn shown(&self) -> Arc<str> {
        const MOST: usize = 256;
        let Some(first) = self.names.first() else {
            return "a certificate without DNS names and URIs".into();
        };
        let visible = |c: char| if c.is_ascii_graphic() { c } else { '?' };
        let shown: String = first.to_string().chars().take(MOST).map(visible).collect();
        shown.into()
    }
}

/// Seconds since 1970.
pub(crate) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn san(text: &str) -> San {
        text.parse().unwrap()
    }

    #[test]
    fn entries_and_names() {
        for (entry, name, means) in [
            ("dns:Gateway.Example.", "dns:gateway.example", true),
            ("dns:gateway.example", "dns:a.gateway.example", false),
            ("dns:*.example", "dns:gateway.example", false),
            ("dns:x", "uri:x:x", false),
            ("uri:spiffe://a/b", "uri:spiffe://a/b", true),
            ("uri:spiffe://a/b", "uri:spiffe://a/B", false),
            ("uri:spiffe://a/b/*", "uri:spiffe://a/b/c", true),
            ("uri:spiffe://a/b/*", "uri:spiffe://a/b/", false),
            ("uri:spiffe://a/b/*", "uri:spiffe://a/bc", false),
            ("uri:spiffe://a/b*", "uri:spiffe://a/bc", false),
        ] {
            assert_eq!(san(entry).means(&san(name)), means, "{entry} {name}");
        }
        for bad in [
            "",
            "gateway",
            "dns:",
            "ip:1.2.3.4",
            "dns:a b",
            "uri:nothing",
        ] {
            assert!(bad.parse::<San>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_certificate_is_read() {
        let mut params = rcgen::CertificateParams::new(vec!["Gateway.example".to_owned()]).unwrap();
        let uri = "spiffe://example/envoy".try_into().unwrap();
        params.subject_alt_names.push(rcgen::SanType::URI(uri));
        params.not_after = rcgen::date_time_ymd(2031, 2, 3);
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let identity = Identity::read(certificate.der()).unwrap();
        assert_eq!(
            identity.names,
            [
                san("dns:gateway.example"),
                san("uri:spiffe://example/envoy")
            ]
        );
        assert_eq!(identity.not_after, 1_927_843_200);
        assert!(!identity.has_ended());
        assert_eq!(&*identity.shown(), "dns:gateway.example");
        assert!(Identity::read(b"nonsense").is_err());
    }
}
