//! TLS towards the service.

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, ConfigBuilder, Error, RootCertStore,
    WantsVerifier,
};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_rustls::TlsConnector;

/// Files for TLS, in PEM. They are read for each new connection, so that a certificate which is replaced in time
/// needs no restart; while they cannot be used, the last ones that could stay in force.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// The authorities that may vouch for the service; `None`: those of the machine.
    pub ca: Option<PathBuf>,
    /// Our own certificate and those that lead to its authority, where the service asks for one. Goes with `key`.
    pub cert: Option<PathBuf>,
    /// Its private key. Goes with `cert`.
    pub key: Option<PathBuf>,
}

/// Makes connections with what the files hold.
#[derive(Debug, Default)]
pub(crate) struct Tls {
    files: TlsFiles,
    last: Mutex<Option<(Contents, Arc<ClientConfig>)>>,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Contents {
    ca: Option<Vec<u8>>,
    own: Option<(Vec<u8>, Vec<u8>)>,
}

impl Tls {
    /// Reads the files for the first time.
    pub fn new(files: TlsFiles) -> Result<Tls, String> {
        let tls = Tls {
            files,
            last: Mutex::default(),
        };
        tls.config()?;
        Ok(tls)
    }

    /// What the files hold now, or held when they last could be used.
    fn config(&self) -> Result<Arc<ClientConfig>, String> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let made = self.files.read().and_then(|contents| match &*last {
            Some((old, config)) if *old == contents => Ok((contents, config.clone())),
            _ => {
                let config = self.files.config(&contents)?;
                Ok((contents, config))
            }
        });
        match made {
            Ok((contents, config)) => {
                *last = Some((contents, config.clone()));
                Ok(config)
            }
            Err(error) => match &*last {
                Some((_, old)) => Ok(old.clone()),
                None => Err(error),
            },
        }
    }

    /// Shakes hands with the service of this name.
    pub async fn connect(&self, host: &str, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let config = self.config().map_err(io::Error::other)?;
        let name = ServerName::try_from(host.to_owned()).map_err(|_| {
            io::Error::other(format!("`{host}` cannot be the name in a certificate"))
        })?;
        let connector = TlsConnector::from(config);
        connector.connect(name, stream).await.map_err(told)
    }
}

impl TlsFiles {
    fn read(&self) -> Result<Contents, String> {
        let read = |path: &Path| {
            std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))
        };
        Ok(Contents {
            ca: self.ca.as_deref().map(read).transpose()?,
            own: match (&self.cert, &self.key) {
                (Some(cert), Some(key)) => Some((read(cert)?, read(key)?)),
                (None, None) => None,
                _ => return Err("a client certificate and its key go together".to_owned()),
            },
        })
    }

    fn config(&self, contents: &Contents) -> Result<Arc<ClientConfig>, String> {
        let builder: ConfigBuilder<ClientConfig, WantsVerifier> =
            ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
                .with_safe_default_protocol_versions()
                .map_err(|error| error.to_string())?;
        let of = |path: &Option<PathBuf>, message: String| {
            let path = path.as_deref().unwrap_or(Path::new(""));
            format!("{}: {message}", path.display())
        };
        let mut roots = RootCertStore::empty();
        match &contents.ca {
            Some(pem) => {
                let authorities = certificates(pem).map_err(|error| of(&self.ca, error))?;
                for authority in authorities {
                    let added = roots.add(authority);
                    added.map_err(|error| of(&self.ca, error.to_string()))?;
                }
            }
            None => {
                let found = rustls_native_certs::load_native_certs();
                roots.add_parsable_certificates(found.certs);
            }
        }
        let builder = builder.with_root_certificates(roots);
        let mut config = match &contents.own {
            None => builder.with_no_client_auth(),
            Some((cert, key)) => {
                let chain = certificates(cert).map_err(|error| of(&self.cert, error))?;
                let key = PrivateKeyDer::from_pem_slice(key)
                    .map_err(|_| of(&self.key, "holds no private key in PEM".to_owned()))?;
                builder
                    .with_client_auth_cert(chain, key)
                    .map_err(|error| match error {
                        Error::InconsistentKeys(_) => of(
                            &self.key,
                            "is not the key of the client certificate".to_owned(),
                        ),
                        error => of(&self.cert, error.to_string()),
                    })?
            }
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if found.is_empty() => Err("holds no certificate in PEM".to_owned()),
        Ok(found) => Ok(found),
        Err(error) => Err(format!("is no PEM: {error}")),
    }
}

/// What an error of TLS means, in a sentence; `None` if it is none.
pub(crate) fn meaning_of(error: &io::Error) -> Option<String> {
    let inner = error.get_ref()?.downcast_ref::<Error>()?;
    Some(meaning(inner))
}

fn told(error: io::Error) -> io::Error {
    match meaning_of(&error) {
        Some(text) => io::Error::new(error.kind(), text),
        None => error,
    }
}

fn meaning(error: &Error) -> String {
    use CertificateError as Certificate;
    match error {
        Error::InvalidCertificate(Certificate::Expired | Certificate::ExpiredContext { .. }) => {
            "the service's certificate has expired".to_owned()
        }
        Error::InvalidCertificate(
            Certificate::NotValidForName | Certificate::NotValidForNameContext { .. },
        ) => format!("the service's certificate is for another name: {error}"),
        Error::InvalidCertificate(Certificate::UnknownIssuer | Certificate::BadSignature) => {
            "no authority that is known here vouches for the service's certificate; name its own \
             with a CA file"
                .to_owned()
        }
        Error::InvalidCertificate(other) => {
            format!("the service's certificate cannot be used: {other}")
        }
        Error::InvalidMessage(_) => "the service speaks no TLS on this port".to_owned(),
        Error::AlertReceived(alert) => match alert {
            AlertDescription::CertificateExpired => {
                "the service says that our client certificate has expired".to_owned()
            }
            AlertDescription::UnknownCA => {
                "the service knows no authority that vouches for our client certificate".to_owned()
            }
            AlertDescription::CertificateRequired => {
                "the service asks for a client certificate".to_owned()
            }
            AlertDescription::ProtocolVersion => {
                "the service allows no version of TLS that is spoken here".to_owned()
            }
            other => format!("the service ended the handshake: {other:?}"),
        },
        other => format!("TLS failed: {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_are_not_there_or_go_alone() {
        let files = |ca: Option<&str>, cert: Option<&str>, key: Option<&str>| TlsFiles {
            ca: ca.map(PathBuf::from),
            cert: cert.map(PathBuf::from),
            key: key.map(PathBuf::from),
        };
        let error = |files| Tls::new(files).err().unwrap_or_default();
        assert!(error(files(Some("/nowhere.pem"), None, None)).starts_with("/nowhere.pem: "));
        assert!(error(files(None, Some("/x"), None)).contains("go together"));
        let no_pem = files(Some("/proc/version"), None, None);
        assert_eq!(error(no_pem), "/proc/version: holds no certificate in PEM");
        assert!(Tls::new(TlsFiles::default()).is_ok());
    }

    #[test]
    fn errors_of_tls_are_told_in_words() {
        let of = |error: Error| told(io::Error::new(io::ErrorKind::InvalidData, error)).to_string();
        let expired = of(Error::InvalidCertificate(CertificateError::Expired));
        assert_eq!(expired, "the service's certificate has expired");
        let alert = of(Error::AlertReceived(AlertDescription::UnknownCA));
        assert!(
            alert.contains("vouches for our client certificate"),
            "{alert}"
        );
        let other = told(io::Error::from(io::ErrorKind::ConnectionReset));
        assert_eq!(other.kind(), io::ErrorKind::ConnectionReset);
    }
}
