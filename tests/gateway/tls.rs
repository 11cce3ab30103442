//! What stands in front of a service that speaks no TLS: takes TLS connections and passes on what is
//! in them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::TlsAcceptor;

/// A running one, with a certificate for `localhost`.
pub struct Tls {
    address: SocketAddr,
    authority: PathBuf,
    service: Arc<Mutex<Option<SocketAddr>>>,
    _dir: tempfile::TempDir,
    _runtime: Runtime,
}

impl Tls {
    pub fn start() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let ca_key = KeyPair::generate().expect("a key");
        let mut ca = CertificateParams::new(Vec::new()).expect("parameters");
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // With the name that both have otherwise, the other certificate would look self-signed.
        ca.distinguished_name = DistinguishedName::new();
        ca.distinguished_name
            .push(DnType::CommonName, "the tests' authority");
        let authority = dir.path().join("ca.pem");
        let certificate = ca.self_signed(&ca_key).expect("a certificate");
        std::fs::write(&authority, certificate.pem()).expect("a file");
        let key = KeyPair::generate().expect("a key");
        let leaf = CertificateParams::new(vec!["localhost".to_owned()]).expect("parameters");
        let leaf = leaf
            .signed_by(&key, &Issuer::new(ca, ca_key))
            .expect("a certificate");
        let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
        let provider = tokio_rustls::rustls::crypto::ring::default_provider();
        let config = ServerConfig::builder_with_provider(Arc::new(provider))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], key)
            .expect("a configuration");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let listener = runtime
            .block_on(TcpListener::bind("127.0.0.1:0"))
            .expect("a port");
        let address = listener.local_addr().expect("an address");
        let service = Arc::<Mutex<Option<SocketAddr>>>::default();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        runtime.spawn(serve(listener, acceptor, Arc::clone(&service)));
        Self {
            address,
            authority,
            service,
            _dir: dir,
            _runtime: runtime,
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The file with the certificate that vouches for it.
    pub fn authority(&self) -> &Path {
        &self.authority
    }

    pub fn lead_to(&self, service: SocketAddr) {
        let mut to = self.service.lock().unwrap_or_else(PoisonError::into_inner);
        *to = Some(service);
    }
}

async fn serve(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    service: Arc<Mutex<Option<SocketAddr>>>,
) {
    while let Ok((client, _)) = listener.accept().await {
        let to = *service.lock().unwrap_or_else(PoisonError::into_inner);
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            let (Ok(mut client), Some(to)) = (acceptor.accept(client).await, to) else {
                return;
            };
            if let Ok(mut service) = TcpStream::connect(to).await {
                let _ = tokio::io::copy_bidirectional(&mut client, &mut service).await;
            }
        });
    }
}
