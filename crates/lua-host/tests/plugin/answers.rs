//! First requests, replays and refusals.

use crate::Pair;
use idempotency_lua_host::client::{post, Answer};
use idempotency_lua_host::{tools, until};
use serde_json::json;
use std::time::Duration;

fn is_replay(answer: &Answer) -> bool {
    answer.header("idempotency-replayed") == Some("true")
}

#[test]
fn answers_of_every_form_are_replayed_byte_by_byte_and_executed_once() {
    let Some(Pair { host, upstream }) = Pair::usual() else {
        return;
    };
    for (what, status) in [
        ("", 201),
        ("empty", 201),
        ("no-content", 204),
        ("large", 201),
        ("chunks", 201),
        ("to-the-end", 201),
        ("interim", 201),
        ("402", 402),
        ("303", 303),
    ] {
        let key = format!("form-{what}");
        let request = post("/pay/x?b=2&a=%20", &key, "amount=1").with("X-Do", what);
        let first = request.send(host.address());
        assert_eq!(
            (first.status, first.whole),
            (status, true),
            "{what}: {first:?}"
        );
        assert!(!is_replay(&first), "{what}");
        let replay = request.send(host.address());
        assert!(is_replay(&replay), "{what}: {replay:?}");
        assert_eq!(replay.status, first.status, "{what}");
        assert!(replay.body == first.body, "{what}: {first:?} {replay:?}");
        assert!(replay.whole, "{what}");
        // All that is stored is the same; what is not stored was there once.
        let stored = |answer: &Answer| {
            let mut lasting = answer.lasting();
            lasting.retain(|(name, _)| name != "x-own");
            lasting
        };
        assert_eq!(stored(&replay), stored(&first), "{what}");
        assert_eq!(upstream.executed(&key).len(), 1, "{what}");
        assert!(replay.header("set-cookie").is_none(), "{what}");
    }
}

#[test]
fn what_the_upstream_gets_is_the_clients_request_and_the_names_of_the_execution() {
    let Some(Pair { host, upstream }) = Pair::usual() else {
        return;
    };
    let request = post("/pay/a%20b//c?x=1", "sent", "hello")
        .method("PUT")
        .with("X-Twice", "1")
        .with("X-Twice", "2")
        .with("Connection", "X-Gone")
        .with("X-Gone", "1")
        .with("Idempotency-Fence", "99")
        .with("Accept-Encoding", "gzip");
    assert_eq!(request.send(host.address()).status, 201);
    let [executed] = &upstream.executed("sent")[..] else {
        panic!("not executed once");
    };
    assert_eq!(executed.line, "PUT /pay/a%20b//c?x=1 HTTP/1.1");
    assert_eq!(executed.body, b"hello");
    let all = |name: &str| {
        let of = executed.headers.iter().filter(|(n, _)| n == name);
        of.map(|(_, v)| v.as_str()).collect::<Vec<_>>()
    };
    assert_eq!(all("x-twice"), ["1", "2"]);
    assert!(all("x-gone").is_empty());
    assert_eq!(all("accept-encoding"), ["identity"]);
    assert_eq!(all("idempotency-attempt"), ["1"]);
    assert_eq!(all("idempotency-fence").len(), 1);
    assert_ne!(all("idempotency-fence"), ["99"]);
    assert!(all("idempotency-record")[0].contains("key=sent"));
    assert_eq!(all("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(all("host"), [upstream.address().to_string()]);

    // Methods that nginx does not know, and those that it would send again.
    for method in ["QUERY", "DELETE"] {
        let request = post("/pay", &format!("sent-{method}"), "x").method(method);
        assert_eq!(request.send(host.address()).status, 201);
        assert_eq!(
            request.send(host.address()).header("idempotency-replayed"),
            Some("true")
        );
        let executed = upstream.executed(&format!("sent-{method}"));
        assert_eq!(executed.len(), 1);
        assert_eq!(executed[0].line, format!("{method} /pay HTTP/1.1"));
    }
}

#[test]
fn refusals_are_problem_documents_and_execute_nothing() {
    let Some(Pair { host, upstream }) = Pair::usual() else {
        return;
    };
    let request = post("/pay", "refused", "one");
    assert_eq!(request.send(host.address()).status, 201);
    let other = post("/pay", "refused", "two").send(host.address());
    assert_eq!(other.status, 422);
    assert_eq!(
        other.header("content-type"),
        Some("application/problem+json")
    );
    assert!(other.text().contains("key-reused"), "{}", other.text());
    assert_eq!(upstream.executed("refused").len(), 1);

    let without = post("/pay", "refused-2", "x").without("Idempotency-Key");
    assert_eq!(without.send(host.address()).status, 400);
    let malformed = post("/pay", "a b,c", "x");
    assert_eq!(malformed.send(host.address()).status, 400);
    let ambiguous = post("/pay%2Fx", "refused-3", "x");
    assert_eq!(ambiguous.send(host.address()).status, 400);
    let caller = post("/caller", "refused-4", "x");
    assert_eq!(caller.send(host.address()).status, 403);
    for key in ["refused-2", "a b,c", "refused-3", "refused-4"] {
        assert!(upstream.executed(key).is_empty(), "{key}");
    }
}

#[test]
fn what_no_rule_protects_passes_as_it_was() {
    let Some(Pair { host, upstream }) = Pair::usual() else {
        return;
    };
    for _ in 0..2 {
        let request = post("/free", "free", "x").with("Idempotency-Record", "forged");
        assert_eq!(request.send(host.address()).status, 201);
    }
    let executed = upstream.executed("free");
    assert_eq!(executed.len(), 2);
    assert!(executed[0].header("idempotency-record").is_none());
    let read = post("/pay", "free-get", "").method("GET");
    assert_eq!(read.send(host.address()).status, 201);
    assert_eq!(upstream.executed("free-get").len(), 1);
}

#[test]
fn the_same_key_of_two_callers_is_two_keys() {
    let Some(Pair { host, upstream }) = Pair::usual() else {
        return;
    };
    for caller in ["acme", "globex", "acme"] {
        let request = post("/caller", "caller", "x").with("X-Test-Consumer", caller);
        assert_eq!(request.send(host.address()).status, 201);
    }
    assert_eq!(upstream.executed("caller").len(), 2);
}

#[test]
fn while_it_runs_a_duplicate_is_refused_or_waits_and_gets_the_first_answer() {
    let Some(pair) = Pair::usual() else {
        return;
    };
    let to = pair.host.address();
    let request = post("/pay", "flight", "x").with("X-Do", "wait");
    let again = request.clone();
    let first = std::thread::spawn(move || again.send(to));
    pair.upstream.await_execution("flight");
    let duplicate = request.send(to);
    assert_eq!(duplicate.status, 409);
    assert!(duplicate.header("retry-after").is_some());
    assert!(
        duplicate.text().contains("in-flight"),
        "{}",
        duplicate.text()
    );
    pair.upstream.go_on();
    let first = first.join().unwrap();
    assert_eq!(first.status, 201);
    assert_eq!(request.send(to).body, first.body);
    assert_eq!(pair.upstream.executed("flight").len(), 1);

    let request = post("/wait", "waits", "x").with("X-Do", "wait");
    let begun: Vec<_> = (0..8)
        .map(|_| {
            let request = request.clone();
            std::thread::spawn(move || request.send(to))
        })
        .collect();
    pair.upstream.await_execution("waits");
    let waited = || pair.host.state()["counts"]["waited"].as_u64() >= Some(7);
    assert!(until(Duration::from_secs(10), waited));
    pair.upstream.go_on();
    let answers: Vec<Answer> = begun.into_iter().map(|b| b.join().unwrap()).collect();
    assert!(answers
        .iter()
        .all(|a| a.status == 201 && a.body == answers[0].body));
    assert_eq!(answers.iter().filter(|a| !is_replay(a)).count(), 1);
    assert_eq!(pair.upstream.executed("waits").len(), 1);
}

#[test]
fn bodies_in_files_are_compared_and_sent_like_any() {
    let Some(Pair { host, upstream }) = Pair::usual() else {
        return;
    };
    let body: Vec<u8> = (0..300_000u32).map(|n| (n % 251) as u8).collect();
    let request = post("/pay", "spilled", &body);
    let first = request.send(host.address());
    assert_eq!(first.status, 201);
    assert_eq!(request.send(host.address()).body, first.body);
    assert!(upstream.executed("spilled")[0].body == body);
    let mut other = body.clone();
    *other.last_mut().unwrap() ^= 1;
    assert_eq!(
        post("/pay", "spilled", &other).send(host.address()).status,
        422
    );
    assert_eq!(upstream.executed("spilled").len(), 1);
    let huge = post("/pay", "huge", vec![b'x'; (1 << 20) + 1]);
    assert_eq!(huge.send(host.address()).status, 413);
    assert!(upstream.executed("huge").is_empty());
}

#[test]
fn many_clients_at_once_execute_each_key_once() {
    for service in [
        json!({}),
        // All of them queue for one message at a time.
        json!({ "batch": { "max_in_flight": 1, "max_operations": 8 }, "target": "tcp" }),
        json!({ "batch": { "max_in_flight": 0 } }),
    ] {
        if tools::can_run() {
            crowd(&Pair::start(service));
        }
    }
}

fn crowd(Pair { host, upstream }: &Pair) {
    let to = host.address();
    let clients: Vec<_> = (0..16)
        .map(|client| {
            std::thread::spawn(move || {
                for n in 0..20 {
                    let key = format!("many-{}", (n + client * 3) % 40);
                    let answer = post("/wait", &key, "same").send(to);
                    assert_eq!(answer.status, 201, "{answer:?}");
                }
            })
        })
        .collect();
    for client in clients {
        client.join().unwrap();
    }
    let executed = |n: &u32| upstream.executed(&format!("many-{n}")).len();
    assert!((0..40).all(|n| executed(&n) == 1));
    let settled = || host.state()["waiting"] == 0 && host.state()["leases"] == 0;
    assert!(until(Duration::from_secs(5), settled), "{}", host.state());
}
