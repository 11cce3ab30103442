//! Two gateways of ours in one path: an Envoy at the edge, and the chosen host behind it.

use std::sync::mpsc;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::support::{await_counter, await_execution, in_background, problem};
use idempotency_e2e::relay::{raw, Received, Server};
use idempotency_e2e::{
    assert_problem, assert_replay, eventually, executions, fresh_key, only_on, record_state,
    replayed, Answer, Connection, Request,
};
use idempotency_stack::{
    filter_config, Envoy, EnvoyConfig, Service, ServiceAddress, ServiceOptions, Stack, Tokens,
};
use serde_json::{json, Value};

const HOP_KEY: &str = "hop-key-of-the-tests";

/// One configuration for both, as an operator gives it to all gateways.
fn config(execution: &str, namespace: &str, hop: Value) -> Value {
    let rule = json!({
        "name": "charges",
        "match": { "path_prefix": "/charges" },
        "scope": "global",
        "namespace": namespace,
        "wait_ms": 5_000,
        "execution": execution,
    });
    let mut config = filter_config(&Tokens::default(), json!([rule]));
    config["service"]["timeout_ms"] = json!(10_000);
    if !hop.is_null() {
        config["hop"] = hop;
    }
    config
}

fn hop() -> Value {
    json!({ "key": HOP_KEY })
}

/// What the two gateways share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shared {
    /// Service and namespace.
    All,
    /// The service.
    Service,
    /// Nothing.
    Nothing,
}

struct Chain {
    edge: Envoy,
    _other_service: Option<Service>,
    /// The inner gateway, with its service and the upstream.
    stack: Stack,
}

impl Chain {
    fn start(shared: Shared, execution: &str, hop: &Value) -> Chain {
        let inner_namespace = if shared == Shared::Service {
            "inner"
        } else {
            ""
        };
        let inner = config(execution, inner_namespace, hop.clone());
        let variable = hop["key_env"].as_str();
        let variable =
            variable.map(|name| (name.to_owned(), format!("{HOP_KEY}\nanother-{HOP_KEY}\n")));
        let of_inner = variable.clone();
        let stack = Stack::builder()
            .filter(inner)
            .gateway(move |gateway| {
                gateway.environment.extend(of_inner);
                // Whoever forwards must switch retries off anew.
                for route in &mut gateway.routes {
                    route.retries = true;
                }
            })
            .start();
        let other = (shared == Shared::Nothing)
            .then(|| Service::start(ServiceOptions::default()).expect("a service"));
        let service = other.as_ref().unwrap_or(&stack.service);
        let service = ServiceAddress::Unix(service.socket().to_owned());
        let edge = config(execution, "", hop.clone()).to_string();
        let mut edge = EnvoyConfig::new(edge, stack.address(), service);
        edge.environment.extend(variable);
        let edge = Envoy::start(edge);
        Chain {
            edge: edge.expect("the edge"),
            _other_service: other,
            stack,
        }
    }

    fn send(&self, request: &Request) -> Answer {
        Connection::http1(self.edge.gateway()).send(request)
    }
}

fn charge(query: &str, key: &str) -> Request {
    let target = format!("/charges{query}");
    Request::post(&target).key(key).body("{\"amount\":1}")
}

/// The proof that an upstream sees: none that is worth anything.
fn upstream_sees() -> Option<&'static str> {
    by_host!(
        "in Kong a header cannot be removed, only be written over",
        envoy: None,
        kong: Some("spent"),
    )
}

#[test]
fn with_a_key_there_is_one_execution_and_one_replay() {
    only_on!(
        Envoy | KongHost,
        "the library's layer redeems no proofs; no real Kong stands behind an Envoy here"
    );
    for shared in [Shared::All, Shared::Service, Shared::Nothing] {
        for execution in ["detached", "inline"] {
            let told = format!("{shared:?}, {execution}");
            let chain = Chain::start(shared, execution, &hop());
            let key = fresh_key("hops");
            let first = chain.send(&charge("?echo=1", &key));
            assert_eq!(first.status, 201, "{told}: {first:?}");
            assert_replay(&first, &chain.send(&charge("?echo=1", &key)));
            assert_eq!(executions(&chain.stack, &key), 1, "{told}");
            assert_eq!(first.echoed("idempotency-attempt").as_deref(), Some("1"));
            assert!(first.echoed("idempotency-fence").is_some(), "{told}");
            assert!(first.echoed("idempotency-record").is_some(), "{told}");
            let relayed = u64::from(shared == Shared::All);
            await_counter(&chain.stack, "relayed", relayed);
            // Where the inner gateway only passed it on, no proof is left; where it was granted an execution of its
            // own, it does not know that it is the last one.
            if shared == Shared::All {
                let proof = first.echoed("idempotency-proof");
                assert_eq!(proof.as_deref(), upstream_sees(), "{told}");
            }
            // The inner gateway's route retries what fails; one that forwards switches that off.
            let key = fresh_key("hops-500");
            let failed = chain.send(&charge("?status=500", &key));
            assert_eq!(failed.status, 500, "{told}: {failed:?}");
            assert_problem(
                &chain.send(&charge("?status=500", &key)),
                409,
                "outcome-unknown",
            );
            assert_eq!(executions(&chain.stack, &key), 1, "{told}");
        }
    }
}

/// Both have it in their environment, and nowhere else.
#[test]
fn keys_of_the_environment_are_good_and_not_shown() {
    only_on!(
        Envoy | KongHost,
        "the library's layer redeems no proofs; no real Kong stands behind an Envoy here"
    );
    let chain = Chain::start(Shared::All, "detached", &json!({ "key_env": "HOP_KEYS" }));
    let key = fresh_key("hops-environment");
    let first = chain.send(&charge("?echo=1", &key));
    assert_eq!(first.status, 201, "{first:?}");
    assert_replay(&first, &chain.send(&charge("?echo=1", &key)));
    assert_eq!(executions(&chain.stack, &key), 1);
    await_counter(&chain.stack, "relayed", 1);
    let dump = chain.edge.ask("GET", "/config_dump?include_eds").text();
    assert!(dump.contains("HOP_KEYS"));
    for (place, text) in [
        ("/config_dump", dump),
        ("the edge's log", chain.edge.log()),
        ("the inner gateway's log", chain.stack.gateway.log()),
        ("the service's log", chain.stack.service.log()),
    ] {
        assert!(!text.contains(HOP_KEY), "{place} shows the key");
    }
}

/// Without the variable nothing is protected, and nothing passes.
#[test]
fn a_key_that_is_not_in_the_environment_is_told() {
    only_on!(
        Envoy | KongHost | Nginx | Kong,
        "the library's layer redeems no proofs"
    );
    let config = config("inline", "", json!({ "key_env": "NO_SUCH_KEYS" }));
    let stack = Stack::builder().filter(config).start();
    let key = fresh_key("hops-absent");
    let answer = charge("", &key).send(&stack);
    assert_problem(&answer, 503, "misconfigured");
    assert_eq!(executions(&stack, &key), 0);
    let why = "hop.key_env: NO_SUCH_KEYS: the environment of the VM has no such variable";
    eventually("the log says why", || stack.gateway.log().contains(why));
}

#[test]
fn the_last_gateway_sends_no_proof_and_accepts_the_one_that_is_rotated_out() {
    only_on!(
        Envoy | KongHost,
        "the library's layer redeems no proofs; no real Kong stands behind an Envoy here"
    );
    let inner = config(
        "inline",
        "",
        json!({ "key": ["the-next-key-of-all", HOP_KEY], "last": true }),
    );
    let stack = Stack::builder().filter(inner).start();
    let service = ServiceAddress::Unix(stack.service.socket().to_owned());
    let edge = config("inline", "", hop()).to_string();
    let edge = EnvoyConfig::new(edge, stack.address(), service);
    let edge = Envoy::start(edge).expect("the edge");
    let key = fresh_key("rotated");
    let first = Connection::http1(edge.gateway()).send(&charge("?echo=1", &key));
    assert_eq!(first.status, 201, "{first:?}");
    assert_eq!(
        first.echoed("idempotency-proof").as_deref(),
        upstream_sees()
    );
    await_counter(&stack, "relayed", 1);
    // Its own executions.
    let direct = charge("?echo=1", &fresh_key("direct")).send(&stack);
    assert_eq!(direct.status, 201, "{direct:?}");
    assert_eq!(direct.echoed("idempotency-proof"), None);
}

#[test]
fn without_a_key_the_second_one_refuses_at_once_and_nobody_keeps_that() {
    only_on!(Envoy | KongHost, "the library's layer refuses, too, and has its own test; no real Kong stands behind an Envoy here");
    for execution in ["detached", "inline"] {
        let chain = Chain::start(Shared::All, execution, &Value::Null);
        let key = fresh_key("no-hop-key");
        for _ in 0..2 {
            let asked = Instant::now();
            let refused = chain.send(&charge("", &key));
            assert!(
                asked.elapsed() < Duration::from_secs(4),
                "it waited for itself"
            );
            let (status, name) = by_host!(
                "in Kong, what only we send cannot be removed, so it is refused without a proof",
                envoy: (503, "misconfigured"), kong: (400, "unsupported-request")
            );
            assert_problem(&refused, status, name);
            assert_eq!(refused.header("idempotency-refusal"), None);
            assert_eq!(record_state(&chain.stack, &key), "failed");
        }
        assert_eq!(executions(&chain.stack, &key), 0);
    }
}

#[test]
fn a_refusal_of_the_second_one_is_not_kept_by_the_first() {
    only_on!(
        Envoy,
        "in Kong, a request with our headers and without a proof is refused as such"
    );
    for execution in ["detached", "inline"] {
        // No key is needed where each has a lock of its own.
        let chain = Chain::start(Shared::Service, execution, &Value::Null);
        let key = fresh_key("inner-refusal");
        let slow = charge("?delay_ms=7000", &key);
        let running = in_background(&chain.stack, &slow);
        await_execution(&chain.stack, &key);
        let refused = chain.send(&slow);
        assert_problem(&refused, 409, "in-flight");
        assert_eq!(refused.header("idempotency-refusal"), None);
        assert_eq!(record_state(&chain.stack, &key), "failed", "{execution}");
        let done = running.join().expect("a thread").expect("an answer");
        assert_eq!(done.status, 201);
        let replay = chain.send(&slow);
        assert_eq!(
            (replay.status, &replay.body),
            (201, &done.body),
            "{execution}"
        );
        assert_eq!(executions(&chain.stack, &key), 1, "{execution}");
        // Another request under that key: the refusal is of this one.
        let other = fresh_key("inner-other");
        assert_eq!(charge("", &other).send(&chain.stack).status, 201);
        let wrong = charge("", &other).body("{\"amount\":2}");
        for _ in 0..2 {
            assert_problem(&chain.send(&wrong), 422, "key-reused");
        }
        let right = chain.send(&charge("", &other));
        assert_eq!(right.status, 201, "{execution}: {right:?}");
        assert_eq!(executions(&chain.stack, &other), 1, "{execution}");
    }
}

/// A mark that names another request, or none, is an upstream's answer like any other.
#[test]
fn an_answer_with_somebody_else_s_mark_is_kept() {
    only_on!(Envoy | KongHost, "the library's layer is no gateway");
    let stack = Stack::builder().filter(config("inline", "", hop())).start();
    for mark in [
        "not-executed 00000000000000000000000000000000",
        "unknown 00000000000000000000000000000000",
        "not-executed",
        "",
    ] {
        let key = fresh_key("mark");
        let query = format!(
            "?status=404&header=idempotency-refusal:{}",
            mark.replace(' ', "%20")
        );
        let first = charge(&query, &key).send(&stack);
        assert_eq!(first.status, 404, "{mark}: {first:?}");
        assert_eq!(first.header("idempotency-refusal"), None, "{mark}");
        assert_eq!(record_state(&stack, &key), "completed", "{mark}");
        assert_replay(&first, &charge(&query, &key).send(&stack));
        assert_eq!(executions(&stack, &key), 1, "{mark}");
    }
}

/// An execution at the edge that does not end before it is told to, and the request as it left the edge.
struct Captured {
    received: Received,
    end: mpsc::Sender<()>,
}

/// An edge whose upstream keeps what it gets.
struct Capture {
    edge: Envoy,
    caught: mpsc::Receiver<Captured>,
    _server: Server,
}

impl Capture {
    fn start(stack: &Stack, config: &Value) -> Capture {
        let (sender, caught) = mpsc::channel();
        let sender = Mutex::new(sender);
        let server = Server::start(move |received: &Received| {
            let (end, ended) = mpsc::channel();
            let received = received.clone();
            let sender = sender.lock().unwrap_or_else(PoisonError::into_inner);
            let sent = sender.send(Captured { received, end });
            drop(sender);
            sent.ok()?;
            let _ = ended.recv_timeout(Duration::from_secs(60));
            Some(raw(201, "", b"the edge's"))
        });
        let service = ServiceAddress::Unix(stack.service.socket().to_owned());
        let edge = EnvoyConfig::new(config.to_string(), server.address(), service);
        Capture {
            edge: Envoy::start(edge).expect("the edge"),
            caught,
            _server: server,
        }
    }

    /// A request through the edge, as it arrives behind it, and its answer.
    fn catch(&self, request: &Request) -> (Captured, std::thread::JoinHandle<Answer>) {
        let (request, edge) = (request.clone(), self.edge.gateway());
        let client = std::thread::spawn(move || Connection::http1(edge).send(&request));
        let caught = self.caught.recv_timeout(Duration::from_secs(30));
        (caught.expect("a request at the edge's upstream"), client)
    }
}

/// The request as it left the edge.
fn as_sent(received: &Received) -> Request {
    with(received, "", "")
}

/// The same with another value of a header.
fn with(received: &Received, changed: &str, to: &str) -> Request {
    let mut request = Request::new(&received.method, &received.target);
    for (name, value) in &received.headers {
        if name.starts_with("idempotency-") {
            request = request.header(name, if name == changed { to } else { value });
        }
    }
    request.body(received.body.clone())
}

#[test]
fn a_proof_that_is_altered_replayed_or_of_another_request_is_worth_nothing() {
    only_on!(
        Envoy | KongHost,
        "the library's layer redeems no proofs; no real Kong stands behind an Envoy here"
    );
    let config = config("inline", "", hop());
    let stack = Stack::builder().filter(config.clone()).start();
    let capture = Capture::start(&stack, &config);
    let key = fresh_key("attack");
    let (captured, client) = capture.catch(&charge("?echo=1", &key));
    let true_one = captured.received;
    let header = |name| true_one.header(name).unwrap_or_default().to_owned();
    let (proof, fence) = (header("idempotency-proof"), header("idempotency-fence"));
    assert!(proof.starts_with("v1."), "{true_one:?}");

    let flipped = |at: usize| {
        let mut bytes = proof.clone().into_bytes();
        bytes[at] = if bytes[at] == b'1' { b'2' } else { b'1' };
        String::from_utf8(bytes).expect("still text")
    };
    let later = fence.parse::<u64>().expect("a number") + 1;
    let record = header("idempotency-record");
    for (what, forged) in [
        (
            "code",
            with(&true_one, "idempotency-proof", &flipped(proof.len() - 1)),
        ),
        ("end", with(&true_one, "idempotency-proof", &flipped(5))),
        ("no proof", with(&true_one, "idempotency-proof", "")),
        (
            "fence",
            with(&true_one, "idempotency-fence", &later.to_string()),
        ),
        ("attempt", with(&true_one, "idempotency-attempt", "2")),
        (
            "record",
            with(&true_one, "idempotency-record", &format!("{record}x")),
        ),
        ("body", as_sent(&true_one).body("{\"amount\":9}")),
        ("query", as_sent(&true_one).target("/charges?echo=1&more=1")),
        ("path", as_sent(&true_one).target("/charges/1?echo=1")),
        ("method", as_sent(&true_one).method("PATCH")),
    ] {
        let answer = forged.send(&stack);
        assert!(answer.status >= 400, "{what}: {answer:?}");
        assert_eq!(executions(&stack, &key), 0, "{what}");
    }
    // Under another key it is a client's request of its own, at most: no proof is left on it.
    let other = fresh_key("attack-other");
    let answer = with(&true_one, "idempotency-key", &other).send(&stack);
    assert_eq!(answer.status, 201, "{answer:?}");
    assert_ne!(answer.echoed("idempotency-proof"), Some(proof.clone()));
    assert_ne!(answer.echoed("idempotency-fence"), Some(fence.clone()));
    assert_eq!(executions(&stack, &key), 0);

    // The true one, while it is executed and once it is.
    let first = as_sent(&true_one).send(&stack);
    assert_eq!(first.status, 201, "{first:?}");
    assert_eq!(first.echoed("idempotency-fence"), Some(fence));
    for _ in 0..2 {
        let again = as_sent(&true_one).send(&stack);
        assert_problem(&again, 409, "in-flight");
    }
    assert_eq!(executions(&stack, &key), 1);
    // A client at the edge waits for the execution there.
    captured.end.send(()).expect("the edge's upstream waits");
    let done = client.join().expect("a thread");
    assert_eq!((done.status, done.text().as_str()), (201, "the edge's"));
    let late = as_sent(&true_one).send(&stack);
    assert!(replayed(&late), "{late:?}");
    assert_eq!(late.body, done.body);
    assert_eq!(executions(&stack, &key), 1);
}

#[test]
fn a_proof_that_comes_late_is_worth_nothing() {
    only_on!(
        Envoy | KongHost,
        "the library's layer redeems no proofs; no real Kong stands behind an Envoy here"
    );
    let mut config = config("inline", "", hop());
    config["service"]["timeout_ms"] = json!(400);
    let rule = &mut config["rules"][0];
    rule["lease_ms"] = json!(20_000);
    rule["lease_margin_ms"] = json!(19_000);
    rule["wait_ms"] = json!(0);
    let stack = Stack::builder().filter(config.clone()).start();
    let capture = Capture::start(&stack, &config);
    let key = fresh_key("late");
    let (captured, client) = capture.catch(&charge("", &key));
    // Its end stands in it.
    let proof = captured
        .received
        .header("idempotency-proof")
        .unwrap_or_default();
    let end: u128 = proof
        .split('.')
        .nth(1)
        .and_then(|end| end.parse().ok())
        .expect("an end");
    eventually("the proof is over", || {
        let now = std::time::UNIX_EPOCH.elapsed().expect("a clock");
        now.as_millis() > end
    });
    let late = as_sent(&captured.received).send(&stack);
    assert_eq!(problem(&late), "misconfigured", "{late:?}");
    assert_eq!(executions(&stack, &key), 0);
    captured.end.send(()).expect("the edge's upstream waits");
    assert_eq!(client.join().expect("a thread").status, 201);
}
