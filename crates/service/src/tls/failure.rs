//! Why a handshake failed: a word for the metric, and a sentence for the log.

use rustls::{AlertDescription, CertificateError, Error};
use std::io;

/// Why a handshake failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HandshakeFailure {
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

impl HandshakeFailure {
    pub(crate) const ALL: [HandshakeFailure; 9] = [
        HandshakeFailure::Expired,
        HandshakeFailure::UnknownCa,
        HandshakeFailure::BadCertificate,
        HandshakeFailure::Incompatible,
        HandshakeFailure::NotTls,
        HandshakeFailure::RefusedByClient,
        HandshakeFailure::Slow,
        HandshakeFailure::Closed,
        HandshakeFailure::Other,
    ];

    /// Its name in metrics.
    pub(crate) fn name(self) -> &'static str {
        match self {
            HandshakeFailure::Expired => "expired",
            HandshakeFailure::UnknownCa => "unknown-ca",
            HandshakeFailure::BadCertificate => "bad-certificate",
            HandshakeFailure::Incompatible => "incompatible",
            HandshakeFailure::NotTls => "not-tls",
            HandshakeFailure::RefusedByClient => "refused-by-client",
            HandshakeFailure::Slow => "slow",
            HandshakeFailure::Closed => "closed",
            HandshakeFailure::Other => "other",
        }
    }

    /// Of what the TLS library says.
    pub(crate) fn of(error: &io::Error) -> (HandshakeFailure, String) {
        let inner = error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<Error>());
        match inner {
            Some(error) => of_tls(error),
            None => (
                HandshakeFailure::Closed,
                format!("the client went away: {error}"),
            ),
        }
    }
}

fn of_tls(error: &Error) -> (HandshakeFailure, String) {
    use CertificateError as Certificate;
    let (failure, text) = match error {
        Error::InvalidCertificate(Certificate::Expired | Certificate::ExpiredContext { .. }) => (
            HandshakeFailure::Expired,
            "the client's certificate has expired",
        ),
        Error::InvalidCertificate(
            Certificate::NotValidYet | Certificate::NotValidYetContext { .. },
        ) => (
            HandshakeFailure::Expired,
            "the client's certificate is not valid yet",
        ),
        Error::InvalidCertificate(Certificate::UnknownIssuer | Certificate::BadSignature) => (
            HandshakeFailure::UnknownCa,
            "no authority of tls_client_ca vouches for the client's certificate",
        ),
        Error::InvalidCertificate(other) => {
            let text = format!("the client's certificate cannot be used: {other}");
            return (HandshakeFailure::BadCertificate, text);
        }
        Error::AlertReceived(alert) => return of_alert(*alert),
        Error::PeerIncompatible(why) => {
            let text = format!("the client speaks no version or cipher of ours: {why:?}");
            return (HandshakeFailure::Incompatible, text);
        }
        Error::InvalidMessage(_) => (HandshakeFailure::NotTls, "what the client sent is no TLS"),
        other => return (HandshakeFailure::Other, other.to_string()),
    };
    (failure, text.to_owned())
}

fn of_alert(alert: AlertDescription) -> (HandshakeFailure, String) {
    let why = match alert {
        AlertDescription::UnknownCA => "no authority that it knows vouches for it",
        AlertDescription::CertificateExpired => "it has expired",
        AlertDescription::BadCertificate => "it is not what the client expects",
        AlertDescription::CertificateUnknown => "it is not what the client expects",
        AlertDescription::CertificateRevoked => "it is revoked",
        AlertDescription::ProtocolVersion => {
            let text = "the client speaks no version of TLS that is allowed here";
            return (HandshakeFailure::Incompatible, text.to_owned());
        }
        other => {
            let text = format!("the client ended the handshake: {other:?}");
            return (HandshakeFailure::Other, text);
        }
    };
    let text = format!("the client does not trust the service's certificate: {why}");
    (HandshakeFailure::RefusedByClient, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_told_by_its_name() {
        let of =
            |error: Error| HandshakeFailure::of(&io::Error::new(io::ErrorKind::InvalidData, error));
        let certificate = |error| of(Error::InvalidCertificate(error)).0;
        assert_eq!(
            certificate(CertificateError::Expired),
            HandshakeFailure::Expired
        );
        assert_eq!(
            certificate(CertificateError::UnknownIssuer),
            HandshakeFailure::UnknownCa
        );
        assert_eq!(
            certificate(CertificateError::InvalidPurpose),
            HandshakeFailure::BadCertificate
        );
        let alert = |alert| of(Error::AlertReceived(alert));
        assert_eq!(
            alert(AlertDescription::UnknownCA).0,
            HandshakeFailure::RefusedByClient
        );
        assert!(alert(AlertDescription::CertificateExpired)
            .1
            .ends_with("it has expired"));
        assert_eq!(
            alert(AlertDescription::ProtocolVersion).0,
            HandshakeFailure::Incompatible
        );
        assert_eq!(
            alert(AlertDescription::InternalError).0,
            HandshakeFailure::Other
        );
        let eof = io::Error::from(io::ErrorKind::UnexpectedEof);
        assert_eq!(HandshakeFailure::of(&eof).0, HandshakeFailure::Closed);
        let mut names: Vec<_> = HandshakeFailure::ALL
            .iter()
            .map(|failure| failure.name())
            .collect();
        names.dedup();
        assert_eq!(names.len(), HandshakeFailure::ALL.len());
        for (place, failure) in HandshakeFailure::ALL.into_iter().enumerate() {
            assert_eq!(failure as usize, place);
        }
    }
}
