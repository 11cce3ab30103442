//! TLS: who is let in, what is said to whom is not, and certificates that change.

use crate::support::tls::{Secured, ALICE};
use crate::support::*;
use bytes::Bytes;
use http::{Method, Version};
use idempotency_client::{Remote, TlsFiles};
use idempotency_protocol::{Answer, OPERATIONS_PATH};
use idempotency_service::Settings;
use idempotency_stack::pki::{Authority, Leaf, CA, CERT, GATEWAY_NAME, KEY, SERVICE_NAME};
use idempotency_store::Store;
use rustls::version::{TLS12, TLS13};
use rustls::{SupportedProtocolVersion, ALL_VERSIONS};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const ONLY_12: &[&SupportedProtocolVersion] = &[&TLS12];
const ONLY_13: &[&SupportedProtocolVersion] = &[&TLS13];

/// A payment: locked and recorded.
async fn pay(client: &Client, name: &str) {
    let me = owner();
    granted(client.one(acquire(name, me)).await);
    let done = client.one(complete(name, me, "paid")).await;
    assert!(matches!(done, Answer::Completed { .. }), "{done:?}");
}

async fn refusal(client: &Client) -> String {
    let sent = client.try_send(Method::GET, "/healthz", Bytes::new()).await;
    sent.expect_err("a connection that does not come about")
}

#[tokio::test(flavor = "multi_thread")]
async fn http1_and_http2_as_agreed_in_both_versions_of_tls() {
    let secured = Secured::start(&[]);
    let leaf = secured.pki.authority.issue(&[GATEWAY_NAME]).unwrap();
    let with = |versions, alpn| secured.tunnel(Some(&leaf), &secured.pki.authority, versions, alpn);
    for (n, versions) in [ONLY_12, ONLY_13, ALL_VERSIONS].into_iter().enumerate() {
        let two = with(versions, &["h2", "http/1.1"]).http2();
        assert_eq!(two.get("/healthz").await.version, Version::HTTP_2);
        pay(&two, &format!("h2-{n}")).await;
        let one = with(versions, &["http/1.1"]);
        assert_eq!(one.get("/healthz").await.version, Version::HTTP_11);
        pay(&one, &format!("h1-{n}")).await;
        // Kong's host agrees on nothing.
        pay(&with(versions, &[]), &format!("none-{n}")).await;
    }
    // What was agreed on is what is spoken.
    let liar = with(ALL_VERSIONS, &["http/1.1"]).http2();
    let sent = liar.try_send(Method::GET, "/healthz", Bytes::new()).await;
    assert!(sent.is_err(), "{sent:?}");
    // A large answer is taken in pieces.
    let gateway = with(ALL_VERSIONS, &["h2"]).http2();
    let (me, large) = (owner(), "x".repeat(3 << 20));
    granted(gateway.one(acquire("large", me)).await);
    gateway.one(complete("large", me, &large)).await;
    let answer = gateway.one(acquire("large", owner())).await;
    assert_eq!(replayed(&answer).len(), large.len());
    // Nothing but TLS, and it says so.
    let plain = Client::tcp(secured.child.address);
    let request = "GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let mut stream = TcpStream::connect(secured.child.address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).await.unwrap();
    assert!(
        said.starts_with("HTTP/1.1 400 ") && said.contains("https://"),
        "{said}"
    );
    let sent = plain
        .http2()
        .try_send(Method::GET, "/healthz", Bytes::new())
        .await;
    assert!(sent.is_err());
    assert!(secured.failed("not-tls").await >= 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_minimum_version_and_a_plain_port_beside_it() {
    let secured = Secured::start(&["--tls-min-version", "1.3", "--listen", "plain:127.0.0.1:0"]);
    let leaf = secured.pki.authority.issue(&[GATEWAY_NAME]).unwrap();
    let with = |versions| secured.tunnel(Some(&leaf), &secured.pki.authority, versions, &[]);
    pay(&with(ONLY_13), "new").await;
    let refused = refusal(&with(ONLY_12)).await;
    assert!(refused.contains("ProtocolVersion"), "{refused}");
    assert_eq!(secured.failed("incompatible").await, 1);
    let log = secured.child.log();
    let plain = log
        .lines()
        .find(|line| line.contains("plain:127.0.0.1:"))
        .unwrap();
    let plain: serde_json::Value = serde_json::from_str(plain).unwrap();
    let address = plain["address"].as_str().unwrap();
    let address = address.strip_prefix("plain:").unwrap().parse().unwrap();
    assert_eq!(Client::tcp(address).get("/healthz").await.status, 200);
    // There, a certificate is worth nothing, and the made token is asked for.
    let body = idempotency_protocol::Request {
        operations: vec![acquire("k", owner())],
    }
    .encode();
    let reply = Client::tcp(address).post(OPERATIONS_PATH, body).await;
    reply.problem(401, "unauthenticated");
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_by_certificate_and_what_each_may_not() {
    let secured = Secured::start(&["--operator-token", &format!("bob:{OPERATOR}")]);
    let call = || {
        idempotency_protocol::Request {
            operations: vec![acquire("k", owner())],
        }
        .encode()
    };
    let gateway = secured.gateway();
    pay(&gateway, "paid").await;
    gateway.get("/v1/records").await.problem(403, "wrong-role");
    let alice = secured.named(ALICE);
    let records = alice.get("/v1/records?reason=audit").await;
    assert_eq!(records.status, 200);
    alice
        .post(OPERATIONS_PATH, call())
        .await
        .problem(403, "wrong-role");
    secured.says("uri:spiffe://test/alice").await;

    // A certificate and a token never add up.
    let both = gateway.token(OPERATOR);
    both.get("/v1/records")
        .await
        .problem(403, "certificate-and-token");
    both.post(OPERATIONS_PATH, call())
        .await
        .problem(403, "certificate-and-token");
    assert_eq!(alice.token(OPERATOR).get("/v1/records").await.status, 200);
    gateway
        .token("nobody-has-this-one")
        .post(OPERATIONS_PATH, call())
        .await
        .problem(403, "role-closed");

    let stranger = secured.named("stranger.test");
    stranger
        .post(OPERATIONS_PATH, call())
        .await
        .problem(403, "certificate-without-role");
    stranger
        .token(OPERATOR)
        .get("/v1/records")
        .await
        .problem(403, "certificate-without-role");
    // Failures are told now and then only.
    eventually("the service says whose certificate has no role", || async {
        stranger.post(OPERATIONS_PATH, call()).await;
        secured.child.log().contains("dns:stranger.test")
    })
    .await;

    // Whoever shows no certificate has probes, and nothing else.
    let nobody = secured.nobody();
    for probe in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(nobody.get(probe).await.status, 200, "{probe}");
    }
    nobody
        .post(OPERATIONS_PATH, call())
        .await
        .problem(401, "certificate-required");
    nobody
        .token(OPERATOR)
        .get("/v1/records")
        .await
        .problem(401, "certificate-required");
    for (reason, count) in [
        ("certificate-without-role", 2),
        ("certificate-and-token", 2),
        ("no-certificate", 2),
        ("wrong-role", 2),
    ] {
        let name = format!("idempotencyd_auth_failures_total{{reason=\"{reason}\"}}");
        assert!(secured.metric(&name).await >= count, "{reason}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_over_tls_where_certificates_are_optional() {
    let token = format!("gw:{GATEWAY}");
    let secured = Secured::start(&["--tls-client-auth", "optional", "--gateway-token", &token]);
    pay(&secured.nobody().token(GATEWAY), "token").await;
    pay(&secured.gateway(), "certificate").await;
    let stranger = secured.named("stranger.test").token(GATEWAY);
    stranger
        .get("/v1/records")
        .await
        .problem(403, "certificate-without-role");
}

/// What cannot be trusted, and what both ends say.
#[tokio::test(flavor = "multi_thread")]
async fn handshakes_that_fail_are_told_counted_and_bounded() {
    let secured = Secured::start(&["--header-timeout", "500ms"]);
    let ours = &secured.pki.authority;
    let other = Authority::new("another authority").unwrap();
    let expired = ours.issue_expired(&[GATEWAY_NAME]).unwrap();
    let foreign = other.issue(&[GATEWAY_NAME]).unwrap();
    let server = ours
        .issue_with(&[GATEWAY_NAME], |params| {
            params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
        })
        .unwrap();
    let with = |leaf: &Leaf| secured.with(leaf);
    for (client, at_client, at_service, reason) in [
        (
            with(&expired),
            "CertificateExpired",
            "the client's certificate has expired",
            "expired",
        ),
        (
            with(&foreign),
            "UnknownCA",
            "no authority of tls_client_ca vouches",
            "unknown-ca",
        ),
        (
            with(&server),
            "",
            "the client's certificate cannot be used",
            "bad-certificate",
        ),
        (
            secured.tunnel(None, &other, ALL_VERSIONS, &[]),
            "UnknownIssuer",
            "the client does not trust the service's certificate",
            "refused-by-client",
        ),
    ] {
        let before = secured.failed(reason).await;
        // At most one line a second is written.
        eventually(at_service, || async {
            let said = refusal(&client).await;
            assert!(said.contains(at_client), "{said}");
            secured.child.log().contains(at_service)
        })
        .await;
        assert!(secured.failed(reason).await > before, "{reason}");
    }
    // One that begins and does not go on.
    let mut slow = TcpStream::connect(secured.child.address).await.unwrap();
    slow.write_all(&[0x16, 0x03, 0x01, 0x02, 0x00])
        .await
        .unwrap();
    assert_eq!(slow.read(&mut [0; 64]).await.unwrap_or(0), 0);
    assert_eq!(secured.failed("slow").await, 1);
    pay(&secured.gateway(), "after").await;
}

/// Handshakes that are begun and never ended hold nobody up.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_handshakes_does_not_stop_payments() {
    let secured = Secured::start(&[
        "--max-connections",
        "160",
        "--max-waiters",
        "8",
        "--max-stranger-bytes",
        "8MiB",
        "--header-timeout",
        "500ms",
    ]);
    let unix = Client::unix(&secured.child.dir.socket());
    let gateway = secured.gateway();
    let mut held = tokio::task::JoinSet::new();
    // Not more than the kernel keeps for the listener: of what is above that, a client believes that it is connected
    // and the service never learns of it.
    for n in 0..128 {
        let address = secured.child.address;
        held.spawn(async move {
            let mut stream = TcpStream::connect(address).await.ok()?;
            // Nothing, the first byte, or all of a record but its end.
            let begin = match n % 3 {
                0 => Vec::new(),
                1 => vec![0x16],
                _ => [&[0x16, 0x03, 0x01, 0x20, 0x00][..], &[1; 4096]].concat(),
            };
            stream.write_all(&begin).await.ok()?;
            Some(stream)
        });
    }
    for n in 0..8 {
        pay(&gateway, &format!("during-{n}")).await;
        pay(&unix, &format!("unix-{n}")).await;
        assert_eq!(secured.nobody().get("/healthz").await.status, 200);
    }
    let held: Vec<_> = held.join_all().await.into_iter().flatten().collect();
    pay(&gateway.http2(), "held").await;
    let all = async {
        for mut stream in held {
            let mut buffer = [0; 256];
            while stream.read(&mut buffer).await.is_ok_and(|n| n > 0) {}
        }
    };
    assert!(
        tokio::time::timeout(PATIENCE, all).await.is_ok(),
        "some are still open"
    );
    eventually("all places are free", || async {
        secured.metric("idempotencyd_connections").await == 1
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn new_certificates_are_taken_and_broken_ones_left() {
    const LOADED: &str = "idempotencyd_tls_reloads_total{result=\"loaded\"}";
    const REFUSED: &str = "idempotencyd_tls_reloads_total{result=\"refused\"}";
    const REFUSING: &str = "idempotencyd_tls_files_refused";
    const END: &str =
        "idempotencyd_certificate_not_after_timestamp_seconds{certificate=\"server\"}";
    let secured = Secured::start(&[]);
    let pki = &secured.pki;
    let gateway = secured.gateway();
    let end = secured.metric(END).await;
    assert!(
        secured
            .metric(
                "idempotencyd_certificate_not_after_timestamp_seconds{certificate=\"client-ca\"}"
            )
            .await
            > 0
    );

    // By links, as Kubernetes does.
    let next = pki
        .authority
        .issue_with(&[SERVICE_NAME], |params| {
            params.not_after = rcgen::date_time_ymd(2036, 5, 6)
        })
        .unwrap();
    pki.set_service(&next).unwrap();
    eventually("the new certificate is in force", || async {
        secured.metric(END).await == 2_093_644_800
    })
    .await;
    assert_ne!(end, 2_093_644_800);
    assert_eq!(secured.metric(LOADED).await, 1);
    pay(&gateway, "new").await;

    // Nonsense, a key of another certificate, one that is over, a file of roles without a role: each is told, and
    // changes nothing.
    let ca = pki.authority.pem();
    let expired = pki.authority.issue_expired(&[SERVICE_NAME]).unwrap();
    let mixed = Leaf {
        key: expired.key.clone(),
        ..next.clone()
    };
    let mut refused = 0;
    for (cert, key, said) in [
        ("nonsense", next.key.as_str(), "holds no certificate in PEM"),
        (mixed.cert.as_str(), mixed.key.as_str(), "is not the key of"),
        (expired.cert.as_str(), expired.key.as_str(), "has expired"),
    ] {
        pki.service
            .write(&[(CERT, cert), (KEY, key), (CA, &ca)])
            .unwrap();
        refused += 1;
        eventually(said, || async { secured.metric(REFUSED).await == refused }).await;
        secured.says(said).await;
        assert_eq!(secured.metric(REFUSING).await, 1);
        assert_eq!(secured.metric(END).await, 2_093_644_800);
        pay(&gateway, &format!("old-{refused}")).await;
    }
    // SIGHUP tells it again, and takes what is right by then at once.
    secured.child.signal("HUP");
    eventually("asked, it says no again", || async {
        secured.metric(REFUSED).await == refused + 1
    })
    .await;
    pki.set_service(&next).unwrap();
    secured.child.signal("HUP");
    eventually("what is in force is there again", || async {
        secured.metric(REFUSING).await == 0
    })
    .await;
    // It never went out of force, so nothing was loaded.
    assert_eq!(secured.metric(LOADED).await, 1);

    pki.set_roles("# nobody\n").unwrap();
    secured.says("gives no role").await;
    pay(&gateway, "still").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_ends_while_its_connection_is_open_ends_what_it_may() {
    let secured = Secured::start(&[]);
    let soon = std::time::SystemTime::now() + Duration::from_secs(5);
    let leaf = secured
        .pki
        .authority
        .issue_with(&[GATEWAY_NAME], |params| params.not_after = soon.into())
        .unwrap();
    let client = secured.with(&leaf);
    let mut kept = client.keep().await;
    let call = || {
        idempotency_protocol::Request {
            operations: vec![acquire("k", owner())],
        }
        .encode()
    };
    assert_eq!(kept.post(OPERATIONS_PATH, call()).await, 200);
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let refused = loop {
        match kept.post(OPERATIONS_PATH, call()).await {
            200 => assert!(tokio::time::Instant::now() < deadline, "it never ends"),
            refused => break refused,
        }
    };
    assert_eq!(refused, 401);
    secured.says("certificate-expired").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_and_the_library_speak_it() {
    let secured = Secured::start(&[]);
    let pki = &secured.pki;
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let pair = |name: &str, leaf: Leaf| {
        let cert = write(&format!("{name}.crt"), &leaf.cert);
        (cert, write(&format!("{name}.key"), &leaf.key))
    };
    let ca = write("ca.crt", &pki.authority.pem());
    let other = Authority::new("another authority").unwrap();
    let other_ca = write("other.crt", &other.pem());
    let alice = pair("alice", pki.authority.issue(&[ALICE]).unwrap());
    let expired = pair("expired", pki.authority.issue_expired(&[ALICE]).unwrap());
    let foreign = pair("foreign", other.issue(&[ALICE]).unwrap());
    let stranger = pair("stranger", pki.authority.issue(&["stranger.test"]).unwrap());
    pay(&secured.gateway(), "order-17").await;

    let run = |host: &str, ca: &str, own: &(String, String)| {
        let args = [
            "keys",
            "list",
            "--ca",
            ca,
            "--client-cert",
            &own.0,
            "--client-key",
            &own.1,
        ];
        secured.run(host, &args)
    };
    let good = run("localhost", &ca, &alice);
    let listed = String::from_utf8_lossy(&good.stdout).into_owned();
    assert!(
        good.status.success() && listed.contains("order-17"),
        "{good:?}"
    );
    for (host, ca, own, code, said) in [
        (
            "localhost",
            &other_ca,
            &alice,
            1,
            "no authority that is known here vouches for the service",
        ),
        (
            "127.0.0.1",
            &ca,
            &alice,
            1,
            "the service's certificate is for another name",
        ),
        (
            "localhost",
            &ca,
            &expired,
            1,
            "the service says that our client certificate has expired",
        ),
        (
            "localhost",
            &ca,
            &foreign,
            1,
            "knows no authority that vouches for our client certificate",
        ),
        (
            "localhost",
            &ca,
            &stranger,
            5,
            "The client certificate has no role",
        ),
    ] {
        let output = run(host, ca, own);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{text}");
        assert!(text.contains(said), "{text}");
        assert_eq!(text.trim_end().lines().count(), 1, "{text}");
    }
    let without = secured.run("localhost", &["keys", "list", "--ca", &ca]);
    let text = String::from_utf8_lossy(&without.stderr).into_owned();
    assert!(text.contains("A client certificate is required"), "{text}");
    let ready = secured.run("localhost", &["ready", "--ca", &ca]);
    assert!(ready.status.success(), "{ready:?}");
    let missing = secured.run("localhost", &["ready", "--ca", "/nowhere.pem"]);
    assert_eq!(missing.status.code(), Some(2), "{missing:?}");

    let (cert, key) = pair("gateway", pki.authority.issue(&[GATEWAY_NAME]).unwrap());
    let files = TlsFiles {
        ca: Some(ca.into()),
        cert: Some(cert.clone().into()),
        key: Some(key.clone().into()),
    };
    let url = format!("https://localhost:{}", secured.child.address.port());
    let remote = Remote::new(url.parse().unwrap())
        .tls(files.clone())
        .unwrap();
    let me = owner();
    let answers = remote.apply(vec![acquire("library", me)]).await;
    assert!(
        matches!(answers.as_slice(), [Answer::Granted(_)]),
        "{answers:?}"
    );
    // Files are read for each new connection: what is replaced in time needs no restart.
    let next = Remote::new(url.parse().unwrap()).tls(files).unwrap();
    std::fs::write(&cert, std::fs::read(&stranger.0).unwrap()).unwrap();
    std::fs::write(&key, std::fs::read(&stranger.1).unwrap()).unwrap();
    let answers = next.apply(vec![acquire("library-2", owner())]).await;
    let told = format!("{answers:?}");
    assert!(told.contains("status 403"), "{told}");
    // The connection that is there goes on.
    let answers = remote.apply(vec![complete("library", me, "done")]).await;
    assert!(
        matches!(answers.as_slice(), [Answer::Completed { .. }]),
        "{answers:?}"
    );
}

#[test]
fn settings_that_do_not_go_together() {
    let check = |change: &dyn Fn(&mut Settings)| {
        let mut settings = settings();
        change(&mut settings);
        let errors = settings.check().err().unwrap_or_default();
        errors
            .iter()
            .map(|error| format!("{error}\n"))
            .collect::<String>()
    };
    let alone = check(&|settings| settings.tls_cert = Some("/c".into()));
    assert_eq!(alone, "tls_cert: goes together with tls_key\n");
    let without = check(&|settings| settings.tls_client_ca = Some("/c".into()));
    assert_eq!(without, "tls_client_ca: needs tls_cert and tls_key\n");
    let pki = idempotency_stack::Pki::new().unwrap();
    let with = |settings: &mut Settings| {
        settings.tls_cert = Some(pki.service.path(CERT));
        settings.tls_key = Some(pki.service.path(KEY));
    };
    let roles = check(&|settings| {
        with(settings);
        settings.tls_roles = Some(pki.roles.clone());
    });
    assert_eq!(
        roles,
        "tls_roles: needs tls_client_ca: no client is asked for a certificate\n"
    );
    let plain = check(&|settings| {
        with(settings);
        settings.listen = vec!["plain:0.0.0.0:0".into()];
    });
    assert!(
        plain.starts_with("listen: plain:0.0.0.0:0 can be reached"),
        "{plain}"
    );
    let missing = check(&|settings| {
        with(settings);
        settings.tls_key = Some("/nowhere.key".into());
    });
    assert!(missing.starts_with("tls_key: /nowhere.key: "), "{missing}");
    // Certificates that have the gateway role are as good as a token of it.
    let mut settings = settings();
    with(&mut settings);
    settings.listen = vec!["0.0.0.0:0".into()];
    settings.gateway_tokens.clear();
    assert!(settings.clone().check().is_err());
    settings.tls_client_ca = Some(pki.service.path(CA));
    settings.tls_roles = Some(pki.roles.clone());
    let config = settings.check().unwrap();
    assert_eq!(config.made_token, None);
}
