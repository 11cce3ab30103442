//! The end-to-end basics on a gateway's Envoy: executions counted, bytes compared.

use std::net::SocketAddr;

use idempotency_e2e::{
    assert_problem, assert_replay, eventually, fresh_key, Connection, Http, Request, Wire,
};
use idempotency_stack::{ports, tools, Service, ServiceOptions, Tokens, Upstream, UpstreamOptions};

use super::proxy::{Proxy, Xds};

/// Which cluster of a configuration leads where.
pub struct Names {
    /// The port on which the gateway listens there.
    pub port: u16,
    pub upstream: &'static str,
    pub service: &'static str,
}

/// The manifest as it is shipped, but that the filter is the one that was built, and that a duplicate is told at
/// once that the first one runs.
pub fn as_shipped(path: &str) -> String {
    let mut text = crate::repository::read(path);
    let wasm = tools::wasm().unwrap().display().to_string();
    for (from, to) in [
        (
            "filename: /opt/idempotency/filters/plugin.wasm",
            format!("filename: {wasm}"),
        ),
        ("\"wait_ms\": 5000", "\"wait_ms\": 0".to_owned()),
    ] {
        assert_eq!(text.matches(from).count(), 1, "{path}: {from}");
        text = text.replace(from, &to);
    }
    text
}

/// Runs the configuration on a real Envoy, with a real service and upstream.
pub fn hold(mut xds: Xds, names: &Names, detached: bool) {
    // Those have the newest and the oldest Envoy.
    if !crate::repository::is_pass_with(&["embedded", "redis"]) {
        return;
    }
    let upstream = Upstream::start(UpstreamOptions::default()).unwrap();
    let service = Service::start(ServiceOptions::default()).unwrap();
    let port = ports::free();
    xds.listen_instead(names.port, port);
    xds.lead(names.upstream, upstream.address());
    xds.lead(names.service, service.address());
    let proxy = Proxy::start(xds, port);
    let gateway = Gateway {
        address: proxy.address,
        upstream: &upstream,
    };
    gateway.a_retry_is_replayed();
    gateway.another_payload_is_refused();
    gateway.a_duplicate_of_a_running_request_is_told_so();
    gateway.an_unknown_outcome_is_not_free();
    gateway.nobody_retries();
    gateway.what_a_stream_holds_is_as_large_as_the_rule_allows();
    gateway.other_paths_pass();
    gateway.a_client_leaves(detached);
    let listeners = proxy.admin("/listeners");
    assert_eq!(
        listeners.contains("idempotency_execution"),
        detached,
        "{listeners}"
    );
    let dump = proxy.admin("/config_dump?include_eds");
    assert!(dump.contains("IDEMPOTENCY_TOKEN"), "the variable's name");
    assert!(!dump.contains(&Tokens::default().gateway), "and no token");
}

struct Gateway<'a> {
    address: SocketAddr,
    upstream: &'a Upstream,
}

impl Gateway<'_> {
    fn executions(&self, key: &str) -> u64 {
        self.upstream.executions().of(key)
    }

    fn a_retry_is_replayed(&self) {
        for http in [Http::One, Http::Two] {
            let key = fresh_key("replay");
            let request = Request::post("/charges?bytes=300&header=etag:%22v1%22")
                .key(&key)
                .body("{\"amount\":1}");
            let first = Connection::new(http, self.address).send(&request);
            assert_eq!(first.status, 201, "{first:?}");
            for _ in 0..2 {
                let again = Connection::new(http, self.address).send(&request);
                assert_replay(&first, &again);
            }
            for mark in ["upstream", "gateway-reply", "gateway-sent"] {
                assert_eq!(first.header(&format!("x-idempotency-{mark}")), None);
            }
            assert_eq!(self.executions(&key), 1);
        }
    }

    fn another_payload_is_refused(&self) {
        let key = fresh_key("mismatch");
        let send = |body: &str| {
            let request = Request::post("/charges").key(&key).body(body);
            Connection::http1(self.address).send(&request)
        };
        assert_eq!(send("{\"amount\":1}").status, 201);
        assert_problem(&send("{\"amount\":2}"), 422, "key-reused");
        assert_eq!(self.executions(&key), 1);
    }

    fn a_duplicate_of_a_running_request_is_told_so(&self) {
        let key = fresh_key("in-flight");
        let request = Request::post("/charges?delay_ms=1500").key(&key).body("{}");
        let mut wire = self.executing(&request, &key);
        let duplicate = Connection::http1(self.address).send(&request);
        assert_problem(&duplicate, 409, "in-flight");
        let first = wire.answer();
        assert_eq!(first.status, 201, "{first:?}");
        assert_replay(&first, &Connection::http1(self.address).send(&request));
        assert_eq!(self.executions(&key), 1);
    }

    fn an_unknown_outcome_is_not_free(&self) {
        let key = fresh_key("unknown");
        let request = Request::post("/charges?reset=before").key(&key).body("{}");
        let first = Connection::http1(self.address).send(&request);
        assert_eq!(first.status / 100, 5, "{first:?}");
        let again = Connection::http1(self.address).send(&request);
        assert_problem(&again, 409, "outcome-unknown");
        assert_eq!(self.executions(&key), 1);
    }

    /// The route's policy would send a request that fails three times.
    fn nobody_retries(&self) {
        for failure in ["status=500", "reset=before"] {
            let key = fresh_key("retried");
            let request = Request::post(&format!("/charges/retried?{failure}"))
                .key(&key)
                .body("{}");
            let answer = Connection::http1(self.address).send(&request);
            assert_eq!(answer.status / 100, 5, "{answer:?}");
            assert_eq!(self.executions(&key), 1, "{failure}");
        }
        let free = fresh_key("free");
        let request = Request::new("PUT", "/charges/retried?status=500")
            .key(&free)
            .body("{}");
        Connection::http1(self.address).send(&request);
        assert_eq!(
            self.executions(&free),
            3,
            "the policy is there, for who is not protected"
        );
    }

    /// A control plane's own limits are far below it.
    fn what_a_stream_holds_is_as_large_as_the_rule_allows(&self) {
        for http in [Http::One, Http::Two] {
            let key = fresh_key("large");
            let request = Request::post("/charges?bytes=1048576")
                .key(&key)
                .body(vec![b'x'; 1 << 20]);
            let first = Connection::new(http, self.address).send(&request);
            assert_eq!((first.status, first.body.len()), (201, 1 << 20), "{http:?}");
            assert_replay(&first, &Connection::new(http, self.address).send(&request));
            assert_eq!(self.executions(&key), 1);
        }
    }

    fn other_paths_pass(&self) {
        let key = fresh_key("elsewhere");
        for _ in 0..2 {
            let request = Request::post("/elsewhere").key(&key).body("{}");
            assert_eq!(Connection::http1(self.address).send(&request).status, 201);
        }
        assert_eq!(self.executions(&key), 2);
    }

    /// Detached, the execution is the gateway's and its answer waits for the retry; inline, nobody knows.
    fn a_client_leaves(&self, detached: bool) {
        let key = fresh_key("leaves");
        let request = Request::post("/charges?delay_ms=700&bytes=99")
            .key(&key)
            .body("{}");
        self.executing(&request, &key).hang_up();
        let again = || Connection::http1(self.address).send(&request);
        eventually("the first one has ended", || {
            let answer = again();
            if answer.status == 409 && answer.json()["type"].to_string().contains("in-flight") {
                return false;
            }
            if detached {
                assert_eq!((answer.status, answer.body.len()), (201, 99), "{answer:?}");
                assert_eq!(
                    answer.header("idempotency-replayed").as_deref(),
                    Some("true")
                );
            } else {
                assert_problem(&answer, 409, "outcome-unknown");
            }
            true
        });
        assert_eq!(self.executions(&key), 1);
    }

    /// Sends a request and waits until the upstream executes it.
    fn executing(&self, request: &Request, key: &str) -> Wire {
        let mut wire = Wire::connect(self.address);
        wire.send(request.bytes());
        eventually("the request executes", || self.executions(key) == 1);
        wire
    }
}
