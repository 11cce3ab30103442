//! Certificates made on the spot, in directories as Kubernetes mounts them.

mod mount;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair,
    SanType,
};
use serde_json::json;
use tempfile::TempDir;

use crate::error::Error;

pub use mount::Mount;

/// The name in the service's certificate.
pub const SERVICE_NAME: &str = "idempotencyd.test";
/// The name in the gateway's certificate.
pub const GATEWAY_NAME: &str = "gateway.test";
/// File names in each directory, those of a Kubernetes secret that cert-manager keeps.
pub const CERT: &str = "tls.crt";
/// The private key's file.
pub const KEY: &str = "tls.key";
/// The file of the authority that vouches for the other side.
pub const CA: &str = "ca.crt";

/// An authority.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, in PEM.
#[derive(Clone)]
pub struct Leaf {
    /// The certificate.
    pub cert: String,
    /// Its private key.
    pub key: String,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authority")
    }
}

fn failed(error: impl std::fmt::Display) -> Error {
    Error::new(format!("no certificate: {error}"))
}

fn named(name: &str) -> DistinguishedName {
    // With the name that all have otherwise, a certificate would look self-signed.
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

impl Authority {
    /// A new one.
    ///
    /// # Errors
    ///
    /// If there is no randomness.
    pub fn new(name: &str) -> Result<Self, Error> {
        let mut params = CertificateParams::new(Vec::new()).map_err(failed)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name = named(name);
        let key = KeyPair::generate().map_err(failed)?;
        Ok(Self(
            CertifiedIssuer::self_signed(params, key).map_err(failed)?,
        ))
    }

    /// Its certificate in PEM.
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// Issues a certificate with these names: DNS names, or URIs (which contain `://`).
    ///
    /// # Errors
    ///
    /// If a name is none.
    pub fn issue(&self, names: &[&str]) -> Result<Leaf, Error> {
        self.issue_with(names, |_| ())
    }

    /// The same for a certificate that has been over since a day of 2001.
    ///
    /// # Errors
    ///
    /// If a name is none.
    pub fn issue_expired(&self, names: &[&str]) -> Result<Leaf, Error> {
        self.issue_with(names, |params| {
            params.not_before = rcgen::date_time_ymd(2000, 1, 1);
            params.not_after = rcgen::date_time_ymd(2001, 1, 1);
        })
    }

    /// The same, changed before it is signed.
    ///
    /// # Errors
    ///
    /// If a name is none.
    pub fn issue_with(
        &self,
        names: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> Result<Leaf, Error> {
        let mut params = CertificateParams::new(Vec::new()).map_err(failed)?;
        params.distinguished_name = named(names.first().copied().unwrap_or("nobody"));
        for name in names {
            let name = name.to_string();
            params.subject_alt_names.push(if name.contains("://") {
                SanType::URI(name.try_into().map_err(failed)?)
            } else {
                SanType::DnsName(name.try_into().map_err(failed)?)
            });
        }
        change(&mut params);
        let key = KeyPair::generate().map_err(failed)?;
        let cert = params.signed_by(&key, &self.0).map_err(failed)?;
        Ok(Leaf {
            cert: cert.pem(),
            key: key.serialize_pem(),
        })
    }
}

/// Everything for mTLS between one gateway and one service.
#[derive(Debug)]
pub struct Pki {
    /// Vouches for both.
    pub authority: Authority,
    /// The service's certificate, its key, and who vouches for clients.
    pub service: Mount,
    /// The gateway's certificate, its key, and who vouches for the service.
    pub gateway: Mount,
    /// The file with the roles of certificates.
    pub roles: PathBuf,
    dir: TempDir,
}

impl Pki {
    /// Makes all of it: [`GATEWAY_NAME`] has the gateway role.
    ///
    /// # Errors
    ///
    /// If a file cannot be written.
    pub fn new() -> Result<Self, Error> {
        let dir = crate::stack::temp_dir()?;
        let authority = Authority::new("the stack's authority")?;
        let pki = Self {
            service: Mount::new(dir.path().join("service")),
            gateway: Mount::new(dir.path().join("gateway")),
            roles: dir.path().join("roles"),
            authority,
            dir,
        };
        pki.set_service(&pki.authority.issue(&[SERVICE_NAME, "localhost"])?)?;
        pki.set_gateway(&pki.authority.issue(&[GATEWAY_NAME])?)?;
        pki.set_roles(&format!("gateway dns:{GATEWAY_NAME}\n"))?;
        pki.write_sds()?;
        Ok(pki)
    }

    /// The one that the stacks of this process share while one of them needs it.
    ///
    /// # Errors
    ///
    /// If it cannot be made.
    pub fn shared() -> Result<Arc<Self>, Error> {
        static SHARED: Mutex<Weak<Pki>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pki) = shared.upgrade() {
            return Ok(pki);
        }
        let pki = Arc::new(Self::new()?);
        *shared = Arc::downgrade(&pki);
        Ok(pki)
    }

    /// Gives the service another certificate, as Kubernetes does.
    ///
    /// # Errors
    ///
    /// If a file cannot be written.
    pub fn set_service(&self, leaf: &Leaf) -> Result<(), Error> {
        self.service.put(leaf, &self.authority.pem())
    }

    /// Gives the gateway another one.
    ///
    /// # Errors
    ///
    /// If a file cannot be written.
    pub fn set_gateway(&self, leaf: &Leaf) -> Result<(), Error> {
        self.gateway.put(leaf, &self.authority.pem())
    }

    /// Changes the roles.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub fn set_roles(&self, text: &str) -> Result<(), Error> {
        let new = self.dir.path().join("roles.new");
        let written = std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, &self.roles));
        written.map_err(|error| Error::new(format!("{}: {error}", self.roles.display())))
    }

    /// What tells Envoy where its certificate is: a file of its secret discovery service.
    pub fn sds_certificate(&self) -> PathBuf {
        self.dir.path().join("certificate.json")
    }

    /// The same for the authority that vouches for the service.
    pub fn sds_authority(&self) -> PathBuf {
        self.dir.path().join("authority.json")
    }

    /// As `envoy/sds` has them; a test compares the two.
    fn write_sds(&self) -> Result<(), Error> {
        let file = |name: &str| json!({ "filename": self.gateway.path(name) });
        let watched = json!({ "path": self.gateway.dir() });
        let certificate = json!({ "name": "gateway-certificate", "tls_certificate": {
            "certificate_chain": file(CERT), "private_key": file(KEY), "watched_directory": watched,
        } });
        let authority = json!({ "name": "service-authority", "validation_context": {
            "trusted_ca": file(CA), "watched_directory": watched,
        } });
        for (path, mut secret) in [
            (self.sds_certificate(), certificate),
            (self.sds_authority(), authority),
        ] {
            secret["@type"] =
                json!("type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret");
            let text = json!({ "resources": [secret] }).to_string();
            std::fs::write(&path, text)
                .map_err(|error| Error::new(format!("{}: {error}", path.display())))?;
        }
        Ok(())
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }
}
