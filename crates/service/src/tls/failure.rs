//! Why a handshake failed: a word for the metric, and a sentence for the log.

use rustls::{AlertDescription, CertificateError, Error};
use std::io;

/// Why a handshake failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The client's certificate is over, or not valid yet.
    Expired,
    /// None of the authorities vouches for the client's certificate.
    UnknownCa,
    /// The client's certificate cannot be used for another reason.
    BadCertificate,
    /// Client and service have no version or cipher in common.
    Incompatible,
    /// What came is no TLS.
    NotTls,
    /// The client does not trust the service's certificate.
    RefusedByClient,
    /// It did not come to its end in time.
    Slow,
    /// The client went away in its middle.
    Closed,
    /// Something else.
    Other,
}

impl Failure {
    pub(crate) const ALL: [Failure; 9] = [
        Failure::Expired,
        Failure::UnknownCa,
        Failure::BadCertificate,
        Failure::Incompatible,
        Failure::NotTls,
        Failure::RefusedByClient,
        Failure::Slow,
        Failure::Closed,
        Failure::Other,
    ];

    /// Its name in metrics.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Failure::Expired => "expired",
            Failure::UnknownCa => "unknown-ca",
            Failure::BadCertificate => "bad-certificate",
            Failure::Incompatible => "incompatible",
            Failure::NotTls => "not-tls",
            Failure::RefusedByClient => "refused-by-client",
            Failure::Slow => "slow",
            Failure::Closed => "closed",
            Failure::Other => "other",
        }
    }

    /// Of what the TLS library says.
    pub(crate) fn of(error: &io::Error) -> (Failure, String) {
        let inner = error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<Error>());
        match inner {
            Some(error) => of_tls(error),
            None => (Failure::Closed, format!("the client went away: {error}")),
        }
    }
}

fn of_tls(error: &Error) -> (Failure, String) {
    use CertificateError as Certificate;
    let (failure, text) = match error {
        Error::InvalidCertificate(Certificate::Expired | Certificate::ExpiredContext { .. }) => {
            (Failure::Expired, "the client's certificate has expired")
        }
        Error::InvalidCertificate(
            Certificate::NotValidYet | Certificate::NotValidYetContext { .. },
        ) => (
            Failure::Expired,
            "the client's certificate is not valid yet",
        ),
        Error::InvalidCertificate(Certificate::UnknownIssuer | Certificate::BadSignature) => (
            Failure::UnknownCa,
            "no authority of tls_client_ca vouches for the client's certificate",
        ),
        Error::InvalidCertificate(other) => {
            let text = format!("the client's certificate cannot be used: {other}");
            return (Failure::BadCertificate, text);
        }
        Error::AlertReceived(alert) => return of_alert(*alert),
        Error::PeerIncompatible(why) => {
            let text = format!("the client speaks no version or cipher of ours: {why:?}");
            return (Failure::Incompatible, text);
        }
        Error::InvalidMessage(_) => (Failure::NotTls, "what the client sent is no TLS"),
        other => return (Failure::Other, other.to_string()),
    };
    (failure, text.to_owned())
}

fn of_alert(alert: AlertDescription) -> (Failure, String) {
    let why = match alert {
        AlertDescription::UnknownCA => "no authority that it knows vouches for it",
        AlertDescription::CertificateExpired => "it has expired",
        AlertDescription::BadCertificate => "it is not what the client expects",
        AlertDescription::CertificateUnknown => "it is not what the client expects",
        AlertDescription::CertificateRevoked => "it is revoked",
        AlertDescription::ProtocolVersion => {
            let text = "the client speaks no version of TLS that is allowed here";
            return (Failure::Incompatible, text.to_owned());
        }
        other => {
            let text = format!("the client ended the handshake: {other:?}");
            return (Failure::Other, text);
        }
    };
    let text = format!("the client does not trust the service's certificate: {why}");
    (Failure::RefusedByClient, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_told_by_its_name() {
        let of = |error: Error| Failure::of(&io::Error::new(io::ErrorKind::InvalidData, error));
        let certificate = |error| of(Error::InvalidCertificate(error)).0;
        assert_eq!(certificate(CertificateError::Expired), Failure::Expired);
        assert_eq!(
            certificate(CertificateError::UnknownIssuer),
            Failure::UnknownCa
        );
        assert_eq!(
            certificate(CertificateError::InvalidPurpose),
            Failure::BadCertificate
        );
        let alert = |alert| of(Error::AlertReceived(alert));
        assert_eq!(
            alert(AlertDescription::UnknownCA).0,
            Failure::RefusedByClient
        );
        assert!(alert(AlertDescription::CertificateExpired)
            .1
            .ends_with("it has expired"));
        assert_eq!(
            alert(AlertDescription::ProtocolVersion).0,
            Failure::Incompatible
        );
        assert_eq!(alert(AlertDescription::InternalError).0, Failure::Other);
        let eof = io::Error::from(io::ErrorKind::UnexpectedEof);
        assert_eq!(Failure::of(&eof).0, Failure::Closed);
        let mut names: Vec<_> = Failure::ALL.iter().map(|failure| failure.name()).collect();
        names.dedup();
        assert_eq!(names.len(), Failure::ALL.len());
        for (place, failure) in Failure::ALL.into_iter().enumerate() {
            assert_eq!(failure as usize, place);
        }
    }
}
