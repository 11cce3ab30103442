//! TLS in the modes of `sslmode`, against a server that takes nothing else.

use crate::common::*;
use crate::server::{own, Database};
use idempotency_stack::PostgresOptions as ServerOptions;
use idempotency_store::{Postgres, PostgresOptions, Store};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use std::sync::Arc;

fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn modes() {
    let (ours, theirs) = (authority("ours"), authority("theirs"));
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["localhost".to_owned()])
        .unwrap()
        .signed_by(&key, &ours)
        .unwrap();
    let server = Arc::new(own(ServerOptions {
        tls: Some((certificate.pem(), key.serialize_pem())),
        hba: vec!["hostnossl all all 127.0.0.1/32 reject".to_owned()],
        ..ServerOptions::default()
    }));
    let database = Database::on(server);
    Postgres::migrate(&PostgresOptions::from_url_and(&database.url(), |_| None).unwrap())
        .await
        .unwrap();
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, pem: String| {
        let path = dir.path().join(name);
        std::fs::write(&path, pem).unwrap();
        path.display().to_string()
    };
    let right = write("right.pem", ours.pem());
    let wrong = write("wrong.pem", theirs.pem());

    let by_address = database.url();
    let by_name = by_address.replace("127.0.0.1", "localhost");
    for (url, mode, root, works) in [
        (&by_address, "disable", None, false),
        (&by_address, "prefer", None, true),
        (&by_address, "require", None, true),
        (&by_address, "verify-ca", Some(&right), true),
        (&by_address, "verify-ca", Some(&wrong), false),
        (&by_address, "verify-full", Some(&right), false),
        (&by_name, "verify-full", Some(&right), true),
        (&by_name, "verify-full", Some(&wrong), false),
    ] {
        let root = root.map_or(String::new(), |path| format!("&sslrootcert={path}"));
        let url = format!("{url}?sslmode={mode}{root}");
        let options = PostgresOptions::from_url_and(&url, |_| None).unwrap();
        match Postgres::open(options).await {
            Ok(store) => {
                assert!(works, "{url} worked");
                store.ready().await.unwrap();
                one(&store, acquire("k", 1)).await;
            }
            Err(error) => assert!(!works, "{url}: {error}"),
        }
    }
    let missing = format!("{by_name}?sslmode=verify-full&sslrootcert=/nowhere.pem");
    let options = PostgresOptions::from_url_and(&missing, |_| None).unwrap();
    let error = Postgres::open(options).await.err().unwrap().to_string();
    assert!(error.contains("sslrootcert: /nowhere.pem"), "{error}");
}
