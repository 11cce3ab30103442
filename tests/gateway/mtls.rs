//! Gateway and service over mTLS: who is let in, and what both ends say of whom is not (`docs/tls.md`).

use std::sync::Arc;

use idempotency_e2e::{assert_problem, assert_replay, eventually, executions, fresh_key};
use idempotency_stack::pki::{Authority, Leaf, GATEWAY_NAME, SERVICE_NAME};
use idempotency_stack::{charges_rule, filter_config, Pki, Stack, Tokens};
use serde_json::json;

use crate::support::{charge, persist};

/// A stack with certificates of its own, in which the filter has no token.
fn stack() -> (Stack, Arc<Pki>) {
    let pki = Arc::new(Pki::new().expect("certificates"));
    let mut config = filter_config(&Tokens::default(), json!([charges_rule()]));
    let service = config["service"].as_object_mut();
    service.expect("settings").remove("token");
    let of_service = Arc::clone(&pki);
    let stack = Stack::builder()
        .filter(config)
        .service(move |service| service.tls = Some(of_service))
        .start();
    (stack, pki)
}

fn service_metric(stack: &Stack, name: &str) -> u64 {
    let text = stack.service.metrics();
    let value = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok();
    text.lines().find_map(value).unwrap_or(0)
}

/// Waits until the service has read its files again after this change of them.
fn and_reloaded(stack: &Stack, change: impl FnOnce()) {
    const LOADED: &str = "idempotencyd_tls_reloads_total{result=\"loaded\"}";
    let before = service_metric(stack, LOADED);
    change();
    eventually("the service has read its files again", || {
        service_metric(stack, LOADED) > before
    });
}

fn assert_works(stack: &Stack) {
    let key = fresh_key("mtls");
    let request = charge("/charges", &key);
    let first = persist(stack, &request);
    assert_eq!(first.status, 201, "{first:?}");
    assert_replay(&first, &request.send(stack));
    assert_eq!(executions(stack, &key), 1);
}

#[test]
fn a_certificate_is_enough_and_both_are_replaced_while_all_runs() {
    only_on!(Envoy, "no other host of the filter can show a certificate");
    let (mut stack, pki) = stack();
    assert_works(&stack);
    let with_tls = stack
        .gateway
        .envoy()
        .stats("cluster.idempotency.ssl.handshake");
    assert!(with_tls.values().sum::<u64>() > 0, "{with_tls:?}");

    // Nobody is restarted but the service, which ends the connections that the old certificates began.
    and_reloaded(&stack, || {
        let leaf = pki.authority.issue(&[SERVICE_NAME]).expect("a certificate");
        pki.set_service(&leaf).expect("files");
    });
    and_reloaded(&stack, || {
        pki.set_roles("gateway uri:spiffe://test/gateways/*\n")
            .expect("a file");
    });
    let leaf = pki.authority.issue(&["spiffe://test/gateways/2"]);
    pki.set_gateway(&leaf.expect("a certificate"))
        .expect("files");
    stack.service.restart().expect("the service");
    assert_works(&stack);
    let ends = "idempotencyd_certificate_not_after_timestamp_seconds{certificate=\"server\"}";
    assert!(service_metric(&stack, ends) > 1_800_000_000);
}

#[test]
fn a_role_that_is_taken_away_is_gone_at_once_also_for_open_connections() {
    only_on!(Envoy, "no other host of the filter can show a certificate");
    let (stack, pki) = stack();
    assert_works(&stack);
    and_reloaded(&stack, || {
        pki.set_roles("gateway dns:another.test\n").expect("a file");
    });
    let key = fresh_key("revoked");
    let request = charge("/charges", &key);
    assert_problem(&request.send(&stack), 503, "store-unavailable");
    assert_eq!(executions(&stack, &key), 0);
    let refused = "status 403: the service does not accept service.token, or the certificate";
    eventually("the gateway's log says why", || {
        stack.gateway.log().contains(refused)
    });
    let log = stack.service.log();
    let name = format!("dns:{GATEWAY_NAME}");
    let tells = |line: &str| line.contains("certificate-without-role") && line.contains(&name);
    assert!(log.lines().any(tells), "{log}");

    and_reloaded(&stack, || {
        pki.set_roles(&format!("gateway dns:{GATEWAY_NAME}\n"))
            .expect("a file");
    });
    assert_eq!(persist(&stack, &request).status, 201);
    assert_eq!(executions(&stack, &key), 1);
}

/// One that cannot be used, and what the two ends say.
struct Case {
    what: &'static str,
    /// Of the service, else of the gateway.
    of_service: bool,
    leaf: Leaf,
    gateway_says: &'static str,
    service_says: &'static str,
}

#[test]
fn what_cannot_be_trusted_executes_nothing_and_is_told_at_both_ends() {
    only_on!(Envoy, "no other host of the filter can show a certificate");
    let (mut stack, pki) = stack();
    let other = Authority::new("another authority").expect("an authority");
    let of = |leaf: Result<Leaf, _>| -> Leaf { leaf.expect("a certificate") };
    let service = |what, leaf, gateway_says, service_says| Case {
        what,
        of_service: true,
        leaf,
        gateway_says,
        service_says,
    };
    let gateway = |what, leaf, gateway_says, service_says| Case {
        what,
        of_service: false,
        leaf,
        gateway_says,
        service_says,
    };
    let cases = [
        gateway(
            "an expired client certificate",
            of(pki.authority.issue_expired(&[GATEWAY_NAME])),
            "SSLV3_ALERT_CERTIFICATE_EXPIRED",
            "the client's certificate has expired",
        ),
        gateway(
            "a client certificate of an unknown authority",
            of(other.issue(&[GATEWAY_NAME])),
            "TLSV1_ALERT_UNKNOWN_CA",
            "no authority of tls_client_ca vouches for the client's certificate",
        ),
        service(
            "a service of another name",
            of(pki.authority.issue(&["elsewhere.test"])),
            "verify cert failed: SAN matcher",
            "the client does not trust the service's certificate",
        ),
        service(
            "a service of an unknown authority",
            of(other.issue(&[SERVICE_NAME])),
            "unable to get local issuer certificate",
            "the client does not trust the service's certificate",
        ),
    ];
    let good = |name| of(pki.authority.issue(&[name]));
    for case in cases {
        let (what, told) = (case.what, case.service_says);
        if case.of_service {
            and_reloaded(&stack, || pki.set_service(&case.leaf).expect("files"));
        } else {
            pki.set_gateway(&case.leaf).expect("files");
        }
        // A new one has no connection yet, and tells of its first failure at once.
        stack.gateway.restart().expect("the gateway");
        let asked = stack
            .gateway
            .envoy()
            .ask("POST", "/logging?connection=debug");
        assert_eq!(asked.status, 200, "{asked:?}");
        let key = fresh_key("untrusted");
        let request = charge("/charges", &key);
        eventually(&format!("{what}: the service says so"), || {
            let answer = request.send(&stack);
            assert_problem(&answer, 503, "store-unavailable");
            stack.service.log().contains(told)
        });
        eventually(&format!("{what}: the gateway says so"), || {
            let log = stack.gateway.log();
            log.contains("one of the two does not trust the other's certificate")
                && log.contains(case.gateway_says)
        });
        assert_eq!(executions(&stack, &key), 0, "{what}");
        if case.of_service {
            and_reloaded(&stack, || {
                pki.set_service(&good(SERVICE_NAME)).expect("files")
            });
        } else {
            pki.set_gateway(&good(GATEWAY_NAME)).expect("files");
        }
    }
    stack.gateway.restart().expect("the gateway");
    assert_works(&stack);
    assert_eq!(stack.upstream.executions().total, 1);
    for reason in ["expired", "unknown-ca", "refused-by-client"] {
        let name = format!("idempotencyd_tls_handshakes_failed_total{{reason=\"{reason}\"}}");
        assert!(service_metric(&stack, &name) > 0, "{reason}");
    }
}
