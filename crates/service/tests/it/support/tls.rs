//! A service with certificates, and clients that show theirs.

use super::child::{binary, Child, Dir};
use super::{eventually, Client, Tunnel};
use idempotency_stack::pki::{Authority, Leaf, Pki, CA, CERT, GATEWAY_NAME, KEY, SERVICE_NAME};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion, ALL_VERSIONS};
use std::process::Output;
use std::sync::Arc;

/// A running service with mTLS, and no tokens: certificates say who may what.
pub struct Secured {
    pub child: Child,
    pub pki: Pki,
}

/// The lines of the file of roles.
pub const ROLES: &str =
    "gateway dns:gateway.test\noperator uri:spiffe://test/alice\nupstream dns:up.test\n";
/// The name of an operator's certificate.
pub const ALICE: &str = "spiffe://test/alice";

impl Secured {
    pub fn start(args: &[&str]) -> Secured {
        let pki = Pki::new().unwrap();
        pki.set_roles(ROLES).unwrap();
        let dir = Dir::new();
        let data = dir.path().join("data").display().to_string();
        let file = |name| pki.service.path(name).display().to_string();
        let (cert, key, ca) = (file(CERT), file(KEY), file(CA));
        let roles = pki.roles.display().to_string();
        let mut all = vec!["--data-dir", &data, "--durability", "relaxed"];
        all.extend(["--tls-cert", &cert, "--tls-key", &key]);
        all.extend(["--tls-client-ca", &ca, "--tls-roles", &roles]);
        all.extend(args);
        let child = Child::start(dir, &all);
        Secured { child, pki }
    }

    /// A client with this certificate.
    pub fn with(&self, leaf: &Leaf) -> Client {
        self.tunnel(Some(leaf), &self.pki.authority, ALL_VERSIONS, &[])
    }

    /// A client with a certificate of this name.
    pub fn named(&self, name: &str) -> Client {
        self.with(&self.pki.authority.issue(&[name]).unwrap())
    }

    pub fn gateway(&self) -> Client {
        self.named(GATEWAY_NAME)
    }

    /// A client without a certificate.
    pub fn nobody(&self) -> Client {
        self.tunnel(None, &self.pki.authority, ALL_VERSIONS, &[])
    }

    /// A client that trusts this authority, speaks these versions, and offers these protocols.
    pub fn tunnel(
        &self,
        leaf: Option<&Leaf>,
        authority: &Authority,
        versions: &[&'static SupportedProtocolVersion],
        alpn: &[&str],
    ) -> Client {
        let mut roots = RootCertStore::empty();
        let pem = authority.pem();
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        roots.add(der).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match leaf {
            None => builder.with_no_client_auth(),
            Some(leaf) => {
                let der = CertificateDer::from_pem_slice(leaf.cert.as_bytes()).unwrap();
                let key = PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).unwrap();
                builder.with_client_auth_cert(vec![der], key).unwrap()
            }
        };
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Client::tcp(self.child.address).over(Tunnel {
            config: Arc::new(config),
            name: SERVICE_NAME,
        })
    }

    pub async fn metric(&self, name: &str) -> u64 {
        self.child.metric(name).await
    }

    /// Failed handshakes for this reason.
    pub async fn failed(&self, reason: &str) -> u64 {
        let name = format!("idempotencyd_tls_handshakes_failed_total{{reason=\"{reason}\"}}");
        self.metric(&name).await
    }

    /// Waits until the service says this.
    pub async fn says(&self, text: &str) {
        eventually(text, || async { self.child.log().contains(text) }).await;
    }

    /// Runs a command of `idempotencyd` against it, by this name and with these further arguments.
    pub fn run(&self, host: &str, args: &[&str]) -> Output {
        let url = format!("https://{host}:{}", self.child.address.port());
        let mut command = binary();
        command.args(args).args(["--url", &url]);
        command.output().unwrap()
    }
}
