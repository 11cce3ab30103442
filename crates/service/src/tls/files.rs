//! The files of certificates, keys and roles, and what is made of them.

use super::identity::Identity;
use super::roles::Roles;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{version, RootCertStore, ServerConfig, SupportedProtocolVersion};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The oldest version of TLS that is spoken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Deserialize)]
pub enum MinVersion {
    /// TLS 1.2, with forward secrecy and authenticated encryption alone, and 1.3.
    #[default]
    #[value(name = "1.2")]
    #[serde(rename = "1.2")]
    V1_2,
    /// TLS 1.3.
    #[value(name = "1.3")]
    #[serde(rename = "1.3")]
    V1_3,
}

/// Whether callers have to show a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientAuth {
    /// For everything but health checks and metrics.
    #[default]
    Required,
    /// Who shows none needs a token.
    Optional,
}

/// Which files, and how they are used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsOptions {
    /// The service's certificate, and those that lead to its authority; PEM.
    pub cert: PathBuf,
    /// Its private key; PEM.
    pub key: PathBuf,
    /// Who may vouch for clients; PEM.
    pub client_ca: Option<PathBuf>,
    /// Whether clients have to show a certificate, where `client_ca` is set.
    pub client_auth: ClientAuth,
    /// Which certificate has which role.
    pub roles: Option<PathBuf>,
    /// The oldest version of TLS.
    pub min_version: MinVersion,
}

/// The bytes of the files at one moment.
struct Contents {
    cert: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
    roles: Option<Vec<u8>>,
}

/// What was made of the files.
#[derive(Clone)]
pub struct Loaded {
    /// For gateways, upstreams and the operators' command line.
    pub(super) api: Arc<ServerConfig>,
    /// For browsers on the operators' page: they are asked for no certificate.
    pub(super) page: Arc<ServerConfig>,
    /// Which certificate has which role, if a file says so.
    pub roles: Option<Roles>,
    /// Until when the earliest certificate of each file is valid, in seconds since 1970.
    pub(crate) ends: Vec<(&'static str, i64)>,
    pub(super) digest: [u8; 32],
}

/// Never shows a key.
impl fmt::Debug for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loaded")
            .field("roles", &self.roles)
            .field("ends", &self.ends)
            .finish_non_exhaustive()
    }
}

/// A setting, and what is wrong with its file.
pub(super) type Wrong = (&'static str, String);

impl TlsOptions {
    /// Reads the files.
    ///
    /// # Errors
    ///
    /// All that is wrong, with the name of the setting; and the digest of what was read.
    pub(super) fn load(&self) -> Result<Loaded, (Vec<Wrong>, [u8; 32])> {
        match self.read() {
            Ok(contents) => {
                let digest = contents.digest();
                self.build(&contents, digest)
                    .map_err(|wrong| (wrong, digest))
            }
            Err(wrong) => {
                let text: String = wrong
                    .iter()
                    .map(|(field, text)| format!("{field}{text}\0"))
                    .collect();
                Err((wrong, Sha256::digest(text.as_bytes()).into()))
            }
        }
    }

    fn read(&self) -> Result<Contents, Vec<Wrong>> {
        let mut wrong = Vec::new();
        let mut read = |field, path: &Path| {
            std::fs::read(path).unwrap_or_else(|error| {
                wrong.push((field, format!("{}: {error}", path.display())));
                Vec::new()
            })
        };
        let contents = Contents {
            cert: read("tls_cert", &self.cert),
            key: read("tls_key", &self.key),
            client_ca: self
                .client_ca
                .as_deref()
                .map(|path| read("tls_client_ca", path)),
            roles: self.roles.as_deref().map(|path| read("tls_roles", path)),
        };
        if wrong.is_empty() {
            Ok(contents)
        } else {
            Err(wrong)
        }
    }

    fn build(&self, contents: &Contents, digest: [u8; 32]) -> Result<Loaded, Vec<Wrong>> {
        let mut wrong = Vec::new();
        let mut note = |field: &'static str, path: Option<&Path>, message: String| {
            let path = path.unwrap_or(&self.cert);
            wrong.push((field, format!("{}: {message}", path.display())));
        };
        let mut ends = Vec::new();
        let chain = certificates(&contents.cert, "server", &mut ends)
            .map_err(|message| note("tls_cert", None, message))
            .ok();
        let key = PrivateKeyDer::from_pem_slice(&contents.key)
            .map_err(|_| {
                note(
                    "tls_key",
                    Some(&self.key),
                    "holds no private key in PEM".to_owned(),
                )
            })
            .ok();
        let authorities = contents.client_ca.as_deref().and_then(|pem| {
            certificates(pem, "client-ca", &mut ends)
                .map_err(|message| note("tls_client_ca", self.client_ca.as_deref(), message))
                .ok()
        });
        let roles = contents.roles.as_deref().and_then(|text| {
            Roles::parse(&String::from_utf8_lossy(text))
                .map_err(|message| note("tls_roles", self.roles.as_deref(), message))
                .ok()
        });
        let (Some(chain), Some(key), true) = (chain, key, wrong.is_empty()) else {
            return Err(wrong);
        };
        let make = |authorities| self.config(&chain, &key, authorities);
        let page = make(None).map_err(|error| vec![error])?;
        let api = match authorities {
            Some(authorities) => make(Some(authorities)).map_err(|error| vec![error])?,
            None => page.clone(),
        };
        Ok(Loaded {
            api,
            page,
            roles,
            ends,
            digest,
        })
    }

    fn config(
        &self,
        chain: &[CertificateDer<'static>],
        key: &PrivateKeyDer<'static>,
        authorities: Option<Vec<CertificateDer<'static>>>,
    ) -> Result<Arc<ServerConfig>, Wrong> {
        let provider = Arc::new(ring::default_provider());
        let versions: &[&SupportedProtocolVersion] = match self.min_version {
            MinVersion::V1_2 => &[&version::TLS13, &version::TLS12],
            MinVersion::V1_3 => &[&version::TLS13],
        };
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(versions)
            .map_err(|error| ("tls_min_version", error.to_string()))?;
        let builder = match authorities {
            None => builder.with_no_client_auth(),
            Some(authorities) => {
                let mut roots = RootCertStore::empty();
                let wrong = |error: &dyn fmt::Display| ("tls_client_ca", error.to_string());
                for authority in authorities {
                    roots.add(authority).map_err(|error| wrong(&error))?;
                }
                // Who shows none is told so in HTTP, and health checks have none: `auth::Authority`.
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                        .allow_unauthenticated()
                        .build()
                        .map_err(|error| wrong(&error))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut config = builder
            .with_single_cert(chain.to_vec(), key.clone_key())
            .map_err(|error| match error {
                rustls::Error::InconsistentKeys(_) => {
                    let (key, cert) = (self.key.display(), self.cert.display());
                    ("tls_key", format!("{key}: is not the key of {cert}"))
                }
                error => ("tls_cert", format!("{}: {error}", self.cert.display())),
            })?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

/// The certificates in a file; notes when the first of them ends.
fn certificates(
    pem: &[u8],
    name: &'static str,
    ends: &mut Vec<(&'static str, i64)>,
) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.map_err(|error| format!("is no PEM: {error}"))?;
    let mut first = None;
    for certificate in &found {
        let identity = Identity::read(certificate)
            .map_err(|error| format!("a certificate cannot be read: {error}"))?;
        let end = identity.not_after;
        first = Some(first.map_or(end, |earlier: i64| earlier.min(end)));
    }
    let first = first.ok_or("holds no certificate in PEM")?;
    ends.push((name, first));
    Ok(found)
}

impl Contents {
    fn digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        let optional = [self.client_ca.as_deref(), self.roles.as_deref()];
        let parts = [Some(self.cert.as_slice()), Some(self.key.as_slice())];
        for part in parts.into_iter().chain(optional) {
            let part = part.unwrap_or_default();
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        hash.finalize().into()
    }
}
