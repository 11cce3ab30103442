//! The bootstrap does what the filter relies on, on a real Envoy, without the filter.

use std::net::SocketAddr;
use std::time::Duration;

use idempotency_stack::http::{Answer, Request};
use idempotency_stack::{
    until, Cluster, Envoy, EnvoyConfig, Route, ServiceAddress, Upstream, UpstreamOptions,
};

fn upstream() -> Upstream {
    Upstream::start(UpstreamOptions::default()).unwrap()
}

/// The service is not part of these tests: its address leads nowhere.
fn bare(upstream: &Upstream) -> EnvoyConfig {
    EnvoyConfig::bare(
        upstream.address(),
        ServiceAddress::Unix("/nonexistent".into()),
    )
}

/// Every request goes through the internal listener.
fn through_execution(upstream: &Upstream) -> EnvoyConfig {
    let entrance = Route::new("/", Cluster::Named("idempotency_execution".to_owned()));
    EnvoyConfig {
        routes: vec![entrance],
        execution_routes: Some(Route::defaults()),
        ..bare(upstream)
    }
}

fn post(address: SocketAddr, target: &str) -> Answer {
    Request::post(target)
        .header("Idempotency-Key", target)
        .body("x")
        .send(address)
        .unwrap()
}

#[test]
fn ordinary_routes() {
    let upstream = upstream();
    let envoy = Envoy::start(bare(&upstream)).unwrap();
    assert_eq!(post(envoy.gateway(), "/charges?body=hi").text(), "hi");
    assert_eq!(post(envoy.gateway(), "/charges/no-hosts").status, 503);
    assert_eq!(post(envoy.gateway(), "/charges/refused").status, 503);
    let retried = "/charges/retried?status=500";
    assert_eq!(post(envoy.gateway(), retried).status, 500);
    assert_eq!(
        upstream.executions().of(retried),
        3,
        "the policy retries twice"
    );
    let answer = post(envoy.gateway(), "/charges?body=hi");
    assert_eq!(
        answer.header("x-idempotency-upstream"),
        None,
        "clients see no marks"
    );
    let slashes = "//charges/../x?echo=1";
    assert_eq!(
        post(envoy.gateway(), slashes).json()["uri"],
        slashes,
        "not normalised"
    );
    let logged = || envoy.access_log().contains("attempts=3");
    assert!(
        until(Duration::from_secs(5), logged),
        "{}",
        envoy.access_log()
    );
    assert!(
        envoy
            .stats("gateway.downstream_rq_total")
            .values()
            .sum::<u64>()
            >= 6
    );
}

#[test]
fn answers_through_the_internal_listener_say_who_made_them() {
    let upstream = upstream();
    for http2 in [false, true] {
        let config = EnvoyConfig {
            execution_http2: http2,
            upstream_http2: http2,
            ..through_execution(&upstream)
        };
        let envoy = Envoy::start(config).unwrap();
        let ask = |target: &str| {
            let answer = post(envoy.gateway(), target);
            let mark = |name| answer.header(name).map(str::to_owned);
            let marks = (
                mark("x-idempotency-upstream"),
                mark("x-idempotency-gateway-reply"),
            );
            (answer.status, marks.0, marks.1.unwrap_or_default())
        };
        let one = || Some("1".to_owned());
        let none = String::new;
        assert_eq!(ask("/charges"), (201, one(), none()));
        assert_eq!(
            ask("/charges?status=503&retry_after=1"),
            (503, one(), none())
        );
        let forged = "/charges?header=x-idempotency-gateway-reply:no&\
                      header=x-idempotency-upstream:no";
        assert_eq!(ask(forged), (201, one(), none()));
        let (status, mark, details) = ask("/charges?reset=before");
        assert_eq!((status, mark), (503, None));
        assert!(
            details.contains("upstream_reset_before_response_started"),
            "{details}"
        );
        let (status, mark, details) = ask("/charges/refused");
        assert_eq!((status, mark), (503, None));
        assert!(
            details.contains("upstream_reset_before_response_started"),
            "{details}"
        );
        assert_eq!(
            ask("/charges/no-hosts"),
            (503, None, "no_healthy_upstream".to_owned())
        );
        let sent = |target: &str| {
            let answer = post(envoy.gateway(), target);
            answer
                .header("x-idempotency-gateway-sent")
                .and_then(|sent| sent.parse::<u64>().ok())
        };
        assert_eq!(sent("/charges?header=x-idempotency-gateway-sent:0"), None);
        assert!(sent("/charges?reset=before").is_some_and(|bytes| bytes > 0));
        assert_eq!(sent("/charges/refused"), Some(0));
        assert_eq!(sent("/charges/no-hosts"), Some(0));
        // A retry policy of the route is not followed: the execution belongs to one key.
        for failure in ["status=500", "reset=before"] {
            let target = format!("/charges/retried?{failure}&h2={http2}");
            post(envoy.gateway(), &target);
            assert_eq!(upstream.executions().of(&target), 1, "{target}");
        }
        // The largest bodies that the tests and the demo use.
        let big = post(envoy.gateway(), "/charges?bytes=5000000");
        assert_eq!(big.body.len(), 5_000_000);
    }
}

#[test]
fn trailers_pass() {
    let upstream = upstream();
    let config = EnvoyConfig {
        upstream_http2: true,
        ..bare(&upstream)
    };
    let envoy = Envoy::start(config).unwrap();
    let answer = post(envoy.gateway(), "/charges?trailers=1&body=ab");
    assert_eq!(answer.text(), "ab");
    assert_eq!(answer.header("transfer-encoding"), Some("chunked"));
}

#[test]
fn killed_paused_and_restarted() {
    let mut upstream = upstream();
    let mut envoy = Envoy::start(bare(&upstream)).unwrap();
    let gateway = envoy.gateway();
    envoy.kill();
    assert!(Request::get("/").send(gateway).is_err());
    envoy.restart().unwrap();
    assert_eq!(Request::get("/").send(gateway).unwrap().status, 200);

    envoy.process().pause();
    let slow = Request::get("/")
        .timeout(Duration::from_millis(200))
        .send(gateway);
    assert!(slow.is_err(), "a paused Envoy answers nothing");
    envoy.process().resume();
    assert_eq!(Request::get("/").send(gateway).unwrap().status, 200);

    assert!(envoy.process().stop(Duration::from_secs(10)).is_some());
    assert!(envoy.process().exit_status().is_some());
    assert!(upstream.process().exit_status().is_none());
}

#[test]
fn nothing_is_left_after_drop() {
    let mut upstream = upstream();
    let address = upstream.address();
    let mut envoy = Envoy::start(bare(&upstream)).unwrap();
    let ids = [envoy.process().id(), upstream.process().id()];
    let log = envoy.log_path().to_owned();
    assert!(log.is_file());
    drop((envoy, upstream));
    for id in ids {
        assert!(
            !std::path::Path::new(&format!("/proc/{id}")).exists(),
            "{id} is still there"
        );
    }
    assert!(!log.exists(), "temporary files are removed");
    assert!(Request::get("/").send(address).is_err());
}

#[test]
fn a_refused_configuration_is_told() {
    let upstream = upstream();
    let broken = EnvoyConfig {
        more_clusters: vec![serde_json::json!({})],
        ..bare(&upstream)
    };
    let error = Envoy::start(broken).unwrap_err().to_string();
    assert!(error.starts_with("envoy ended while starting"), "{error}");
    assert!(error.contains("Cluster"), "{error}");
}
