//! The states of an exchange, with a service that says what the tests want.

use super::*;
use crate::call::CallFailed;
use idempotency_protocol::{
    Answer, FailCause, Fault, FaultCode, Grant, Outcome, Stored, StoredResponse,
};

const NOW: Duration = Duration::from_secs(100);
const OWNER: Owner = Owner([7; 16]);
const GRANT: Grant = Grant {
    fence: 5_000_000,
    attempt: 1,
    lease_ms: 10_000,
};

fn plugin(policy: &str) -> Arc<Plugin> {
    let json = format!(
        r#"{{"service":{{"target":"unix:/s"}},"rules":[{{"match":{{"path_prefix":"/pay"}},"scope":"global",
            "lease_ms":10000,"lease_margin_ms":1000{policy}}}]}}"#
    );
    let plugin = Plugin::new(json.as_bytes(), |_| None);
    assert_eq!(plugin.errors(), "");
    Arc::new(plugin)
}

fn head(method: &str, target: &str, fields: &[(&str, &str)]) -> RequestHead {
    let fields = fields.iter().map(|(name, value)| {
        (
            Bytes::copy_from_slice(name.as_bytes()),
            Bytes::copy_from_slice(value.as_bytes()),
        )
    });
    RequestHead {
        method: Bytes::copy_from_slice(method.as_bytes()),
        target: Bytes::copy_from_slice(target.as_bytes()),
        authority: "api".into(),
        headers: Headers::lowered(fields.collect()),
        ..RequestHead::default()
    }
}

use idempotency_core::headers::Headers;

const KEY: (&str, &str) = ("Idempotency-Key", "k-1");

fn decided(policy: &str) -> Exchange {
    let fields = [
        KEY,
        ("Host", "api"),
        ("Connection", "keep-alive, X-Drop"),
        ("X-Drop", "1"),
        ("X-Keep", "a"),
        ("X-Keep", "b"),
        ("Content-Length", "5"),
        ("Idempotency-Fence", "9"),
    ];
    let names = Names::default();
    let (step, exchange) = Exchange::decide(
        &plugin(policy),
        head("POST", "/pay?x=1", &fields),
        &Known(&[]),
        names,
    );
    assert_eq!(step, Step::Body);
    exchange.unwrap()
}

/// An exchange whose acquire is out.
fn asked(policy: &str) -> Exchange {
    let mut exchange = decided(policy);
    assert_eq!(exchange.body(b"he"), Step::Body);
    assert_eq!(exchange.body(b"llo"), Step::Body);
    assert_eq!(exchange.begin(OWNER, NOW), Step::Call);
    assert!(matches!(exchange.pending, Some(Operation::Acquire(_))));
    exchange
}

fn granted(policy: &str) -> Exchange {
    let mut exchange = asked(policy);
    assert_eq!(
        exchange.answer(Ok(Answer::Granted(GRANT)), NOW),
        Step::Execute
    );
    assert!(!exchange.is_pending());
    exchange
}

fn sent(policy: &str) -> Exchange {
    let mut exchange = granted(policy);
    assert_eq!(exchange.may_send(NOW), Step::Execute);
    exchange
}

fn answered(policy: &str, status: u16, body: &[u8]) -> Exchange {
    let mut exchange = sent(policy);
    let fields = [
        ("Content-Type", "text/plain"),
        ("Set-Cookie", "a"),
        ("Idempotency-Replayed", "true"),
    ];
    let fields = head("", "", &fields).headers.0;
    assert_eq!(exchange.answered(status, fields), Step::Deliver);
    exchange.piece(body);
    exchange
}

fn status(exchange: &Exchange) -> u16 {
    exchange.reply().map_or(0, |reply| reply.status)
}

fn names(fields: &[(Bytes, Bytes)]) -> Vec<&str> {
    let names = fields
        .iter()
        .map(|(name, _)| std::str::from_utf8(name).unwrap());
    names.collect()
}

const COMPLETED: Answer = Answer::Completed {
    expires_at_ms: 90_000,
};

#[test]
fn what_no_rule_protects_passes_and_what_only_we_send_is_removed() {
    let plugin = plugin("");
    let decide = |head| Exchange::decide(&plugin, head, &Known(&[]), Names::default());
    for head in [head("GET", "/pay", &[KEY]), head("POST", "/other", &[KEY])] {
        let (step, exchange) = decide(head);
        assert_eq!(step, Step::Pass);
        assert!(exchange.is_none());
    }
    let forged = head("POST", "/other", &[("Idempotency-Fence", "1")]);
    let (step, exchange) = decide(forged);
    assert_eq!(step, Step::Pass);
    assert_eq!(exchange.unwrap().strip(), ["idempotency-fence"]);
    let (step, exchange) = decide(head("POST", "/pay", &[]));
    let exchange = exchange.unwrap();
    assert_eq!((step, status(&exchange)), (Step::Reply, 400));
    assert!(exchange.why().starts_with("missing-key: "));
}

#[test]
fn a_rejected_configuration_refuses_whatever_may_change_something() {
    let rejected = Arc::new(Plugin::new(b"{}", |_| None));
    assert!(rejected.ready().is_none());
    for (method, expected) in [
        ("GET", Step::Pass),
        ("POST", Step::Reply),
        ("PURGE", Step::Reply),
    ] {
        let head = head(method, "/anything", &[]);
        let (step, exchange) = Exchange::decide(&rejected, head, &Known(&[]), Names::default());
        assert_eq!(step, expected, "{method}");
        assert_eq!(
            exchange.map_or(0, |e| status(&e)),
            if step == Step::Reply { 503 } else { 0 }
        );
    }
}

#[test]
fn the_tenant_comes_from_what_the_host_has_read() {
    let json = r#"{"service":{"target":"unix:/s"},"rules":[{"match":{"path":"/pay"},
        "scope":{"property":["kong","consumer","custom_id"]}}]}"#;
    let plugin = Arc::new(Plugin::new(json.as_bytes(), |_| None));
    let known = [("kong.consumer.custom_id".into(), "acme".into())];
    let decide = |known| {
        let head = head("POST", "/pay", &[KEY]);
        Exchange::decide(&plugin, head, &Known(known), Names::default())
    };
    let (step, exchange) = decide(&known);
    assert_eq!(step, Step::Body);
    let mut exchange = exchange.unwrap();
    exchange.begin(OWNER, NOW);
    assert_eq!(exchange.pending.as_ref().unwrap().key().tenant, "acme");
    let (step, exchange) = decide(&[]);
    assert_eq!((step, status(&exchange.unwrap())), (Step::Reply, 403));
}

#[test]
fn a_first_request_is_executed_recorded_and_told_until_when() {
    let mut exchange = answered("", 201, b"done");
    // Pieces of a body do not matter to its fingerprint, and what belongs to the connection stays here.
    let names_of = names(exchange.forwarded());
    assert_eq!(
        names_of,
        [
            "idempotency-key",
            "x-keep",
            "x-keep",
            "accept-encoding",
            "idempotency-fence",
            "idempotency-attempt",
            "idempotency-record"
        ]
    );
    assert_eq!(names(exchange.passed()), ["content-type", "set-cookie"]);
    assert_eq!(exchange.ended(None), Step::Call);
    let Some(Operation::Complete(complete)) = &exchange.pending else {
        panic!("{:?}", exchange.pending);
    };
    assert_eq!(complete.owner, OWNER);
    let Outcome::Response(stored) = &*complete.outcome else {
        panic!("a tombstone");
    };
    assert_eq!((stored.status, stored.body.as_ref()), (201, &b"done"[..]));
    assert_eq!(names(&stored.headers), ["content-type"]);
    assert_eq!(exchange.answer(Ok(COMPLETED), NOW), Step::Deliver);
    assert_eq!(
        exchange.additions(),
        [("idempotency-expires".into(), "@90".into())]
    );
    assert!(!exchange.is_pending());
}

#[test]
fn what_the_store_says_is_what_the_client_gets() {
    let response = StoredResponse {
        status: 201,
        headers: vec![("etag".into(), "1".into())],
        body: "done".into(),
    };
    let stored = Answer::Stored(Stored {
        outcome: Outcome::Response(response).into(),
        fence: 1,
        attempt: 1,
        age_ms: 3_000,
        expires_at_ms: 90_000,
    });
    let fault = |code| {
        Answer::Fault(Fault {
            code,
            detail: "x".into(),
        })
    };
    let in_flight = Answer::InFlight {
        fence: 3,
        lease_left_ms: 10,
    };
    for (answer, expected, gives_back) in [
        (Ok(stored), 201, false),
        (Ok(in_flight), 409, false),
        (Ok(Answer::Mismatch), 422, false),
        (Ok(Answer::NotComparable), 409, false),
        (Ok(Answer::UnknownOutcome { expires_at_ms: 1 }), 409, false),
        (Ok(fault(FaultCode::Capacity)), 503, false),
        (Ok(fault(FaultCode::Quota)), 429, false),
        (Ok(fault(FaultCode::Unavailable)), 503, true),
        (Ok(fault(FaultCode::Invalid)), 503, true),
        (Ok(Answer::Cancelled), 503, true),
        (Err(CallFailed::Unanswered), 503, true),
        (Err(CallFailed::Status(401)), 503, true),
        (Err(CallFailed::Undecodable), 503, true),
    ] {
        let mut exchange = asked("");
        let told = format!("{answer:?}");
        assert_eq!(exchange.answer(answer, NOW), Step::Reply, "{told}");
        assert_eq!(status(&exchange), expected, "{told}");
        // The acquire may have been granted: it is taken back, until that is answered.
        assert_eq!(exchange.is_pending(), gives_back, "{told}");
        if gives_back {
            let cause = FailCause::NotSent;
            let taken_back =
                matches!(&exchange.pending, Some(Operation::Fail { cause: c, .. }) if *c == cause);
            assert!(taken_back, "{told}");
            let unanswered = Err(CallFailed::Unanswered);
            assert_eq!(exchange.answer(unanswered, NOW), Step::Later);
            assert_eq!(exchange.answer(Ok(Answer::Marked), NOW), Step::Done);
            assert!(!exchange.is_pending());
        }
    }
}

#[test]
fn an_outage_passes_where_the_rule_says_so_and_nothing_else_does() {
    let policy = r#","on_service_failure":"pass""#;
    let mut exchange = asked(policy);
    let outage = Err(CallFailed::Status(503));
    assert_eq!(exchange.answer(outage, NOW), Step::Execute);
    let marked = names(exchange.forwarded()).contains(&"idempotency-unprotected");
    assert!(marked && !names(exchange.forwarded()).contains(&"idempotency-fence"));
    assert_eq!(exchange.may_send(NOW), Step::Execute);
    assert_eq!(exchange.answered(200, Vec::new()), Step::Deliver);
    // Its owner still settles, in case that the acquire arrived.
    assert_eq!(exchange.ended(None), Step::Call);
    assert_eq!(exchange.answer(outage_again(), NOW), Step::Deliver);
    assert!(exchange.is_pending());

    let mut exchange = asked(policy);
    let wrong_token = Err(CallFailed::Status(401));
    assert_eq!(exchange.answer(wrong_token, NOW), Step::Reply);
}

fn outage_again() -> CallResult {
    Err(CallFailed::Unanswered)
}

#[test]
fn a_wait_ends_in_a_replay_or_in_another_acquire_and_never_in_a_grant() {
    let in_flight = |fence| {
        Ok(Answer::InFlight {
            fence,
            lease_left_ms: 10,
        })
    };
    let waiting = || {
        let mut exchange = asked(r#","wait_ms":2000"#);
        assert_eq!(exchange.answer(in_flight(3), NOW), Step::Wait);
        exchange
    };
    let exchange = waiting();
    let wait = exchange.wait(NOW + Duration::from_millis(500)).unwrap();
    assert_eq!((wait.fence, wait.wait_ms), (3, 1500));
    assert!(exchange.wait(NOW + Duration::from_secs(2)).is_none());

    let other = Owner([8; 16]);
    let mut exchange = waiting();
    assert_eq!(exchange.waited(Ok(Answer::Changed), other, NOW), Step::Call);
    let Some(Operation::Acquire(acquire)) = &exchange.pending else {
        panic!("{:?}", exchange.pending);
    };
    assert_eq!(acquire.owner, other);
    // All waiting of a request is one time.
    let late = NOW + Duration::from_secs(2);
    assert_eq!(exchange.answer(in_flight(4), late), Step::Reply);
    assert_eq!(status(&exchange), 409);

    for result in [
        Ok(Answer::TimedOut),
        Ok(Answer::Granted(GRANT)),
        outage_again(),
    ] {
        let mut exchange = waiting();
        assert_eq!(exchange.waited(result, other, NOW), Step::Reply);
        assert_eq!(status(&exchange), 409);
        assert!(!exchange.is_pending());
    }
}

#[test]
fn a_grant_that_is_too_old_is_given_back() {
    let late = NOW + Duration::from_secs(9);
    let mut exchange = asked("");
    assert_eq!(
        exchange.answer(Ok(Answer::Granted(GRANT)), late),
        Step::Reply
    );
    assert_eq!((status(&exchange), exchange.is_pending()), (503, true));

    let mut exchange = granted("");
    assert_eq!(exchange.may_send(late), Step::Reply);
    assert!(matches!(exchange.pending, Some(Operation::Fail { .. })));

    // A renewal makes it younger.
    let mut exchange = granted("");
    let (renewal, _, due) = exchange.renewal().unwrap();
    assert!(matches!(
        renewal,
        Operation::Extend {
            lease_ms: 10_000,
            ..
        }
    ));
    assert_eq!(due, NOW + Duration::from_secs(5));
    assert!(exchange.renewed(&Ok(Answer::Extended { lease_ms: 10_000 }), due));
    assert_eq!(exchange.may_send(late), Step::Execute);
    assert!(!exchange.renewed(&Ok(Answer::Lost), late));
}

#[test]
fn only_what_was_not_sent_is_free_again() {
    let failed = |exchange: &Exchange| match &exchange.pending {
        Some(Operation::Fail { cause, .. }) => Some(cause.clone()),
        Some(Operation::Abandon { .. }) => None,
        other => panic!("{other:?}"),
    };
    let mut exchange = granted("");
    assert_eq!(exchange.unreachable(), Step::Call);
    assert_eq!(failed(&exchange), Some(FailCause::NotSent));
    assert_eq!(exchange.answer(Ok(Answer::Failed), NOW), Step::Deliver);

    for (cut, expected) in [(Cut::Broken, 502), (Cut::Late, 504)] {
        let mut exchange = sent("");
        assert_eq!(exchange.unanswered_by_upstream(cut), Step::Call);
        assert_eq!(failed(&exchange), None);
        assert_eq!(exchange.answer(Ok(Answer::Abandoned), NOW), Step::Reply);
        assert_eq!(status(&exchange), expected);

        // Half an answer is never stored as a whole one, and the client does not get it as one.
        let mut exchange = answered("", 201, b"do");
        assert_eq!(exchange.ended(Some(cut)), Step::Call);
        assert_eq!(failed(&exchange), None);
        assert_eq!(exchange.answer(Ok(Answer::Abandoned), NOW), Step::Reply);
        assert_eq!(status(&exchange), expected);
    }
    // What a status has proved stays proved.
    let mut exchange = answered("", 429, b"slo");
    assert_eq!(exchange.ended(Some(Cut::Broken)), Step::Call);
    assert_eq!(failed(&exchange), Some(FailCause::Refused));
    let mut exchange = answered("", 500, b"oh");
    assert_eq!(exchange.ended(None), Step::Call);
    assert_eq!(failed(&exchange), None);
    assert_eq!(exchange.answer(Ok(Answer::Abandoned), NOW), Step::Deliver);
}

#[test]
fn an_answer_that_could_not_be_recorded_is_delivered_or_withheld_by_the_rule() {
    for (policy, expected) in [
        ("", Step::Deliver),
        (r#","on_complete_failure":"withhold""#, Step::Reply),
    ] {
        for (result, goes_on) in [(outage_again(), true), (Ok(Answer::Lost), false)] {
            let mut exchange = answered(policy, 201, b"done");
            exchange.ended(None);
            assert_eq!(exchange.answer(result, NOW), expected);
            assert_eq!(exchange.is_pending(), goes_on);
            assert!(exchange.why().starts_with("complete-failed: "));
            if expected == Step::Reply {
                assert_eq!(status(&exchange), 503);
            }
        }
    }
}

#[test]
fn what_is_given_up_is_settled_by_how_far_it_came() {
    let kind = |mut exchange: Exchange| {
        exchange.give_up();
        exchange.pending.map_or("", |operation| operation.name())
    };
    assert_eq!(kind(decided("")), "");
    assert_eq!(kind(asked("")), "fail");
    assert_eq!(kind(granted("")), "fail");
    assert_eq!(kind(sent("")), "abandon");
    assert_eq!(kind(answered("", 201, b"")), "abandon");
    assert_eq!(kind(answered("", 429, b"")), "fail");
    let mut settling = answered("", 201, b"");
    settling.ended(None);
    assert_eq!(kind(settling), "complete");
}

#[test]
fn a_host_that_asks_in_a_wrong_order_refuses() {
    for wrong in [
        |e: &mut Exchange| e.begin(OWNER, NOW),
        |e: &mut Exchange| e.may_send(NOW),
        |e: &mut Exchange| e.unreachable(),
        |e: &mut Exchange| e.ended(None),
        |e: &mut Exchange| e.body(b"x"),
        |e: &mut Exchange| e.waited(Ok(Answer::Changed), OWNER, NOW),
    ] {
        let mut exchange = asked("");
        assert_eq!(wrong(&mut exchange), Step::Reply);
        assert_eq!(status(&exchange), 503);
    }
}

#[test]
fn bodies_over_the_cap_are_refused_before_anything_is_asked() {
    let mut exchange = decided(r#","max_body_bytes":5"#);
    assert_eq!(exchange.body(b"hello"), Step::Body);
    assert_eq!(exchange.body(b"!"), Step::Reply);
    assert_eq!((status(&exchange), exchange.is_pending()), (413, false));
    let mut exchange = decided("");
    assert_eq!(
        exchange.refuse_as(Problem::UnsupportedRequest, 411, "No length."),
        Step::Reply
    );
    assert_eq!(status(&exchange), 411);
}

#[test]
fn a_replay_that_is_too_long_to_be_shared_is_asked_for_alone_once() {
    let mut exchange = asked("");
    assert_eq!(exchange.answer(Ok(Answer::AskAlone), NOW), Step::Call);
    let mut batch = Batch::new(plugin(""));
    assert_eq!(exchange.add_to(&mut batch, NOW), Some(0));
    let mut other = asked("");
    assert_eq!(other.add_to(&mut batch, NOW), None);
    assert_eq!(exchange.answer(Ok(Answer::AskAlone), NOW), Step::Reply);
    assert_eq!(status(&exchange), 503);
}

/// A request that a gateway before this one has been granted and sent on, and the plugin that meets it.
fn relayed() -> Exchange {
    let json = r#"{"service":{"target":"unix:/s"},"hop":{"key":"0123456789abcdef0123456789abcdef"},
        "rules":[{"match":{"path_prefix":"/pay"},"scope":"global"}]}"#;
    let plugin = || {
        let plugin = Plugin::new(json.as_bytes(), |_| None);
        assert_eq!(plugin.errors(), "");
        Arc::new(plugin)
    };
    let decide = |head| {
        let (step, exchange) = Exchange::decide(&plugin(), head, &Known(&[]), Names::default());
        assert_eq!(step, Step::Body);
        let mut exchange = exchange.unwrap();
        assert_eq!(exchange.begin(OWNER, NOW), Step::Call);
        exchange
    };
    let mut outer = decide(head("POST", "/pay", &[KEY]));
    assert_eq!(outer.answer(Ok(Answer::Granted(GRANT)), NOW), Step::Execute);
    assert!(names(outer.forwarded()).contains(&"idempotency-proof"));
    let mut inner = head("POST", "/pay", &[]);
    inner.headers = Headers(outer.forwarded().to_vec());
    decide(inner)
}

#[test]
fn another_gateways_execution_is_sent_on_once_and_without_its_proof() {
    let redeems = |exchange: &Exchange| matches!(exchange.pending, Some(Operation::Redeem(_)));
    let left = |lease_left_ms| Ok(Answer::Redeemed { lease_left_ms });
    let mut exchange = relayed();
    assert!(redeems(&exchange));
    assert_eq!(exchange.answer(left(60_000), NOW), Step::Relay);
    let sent_on = names(exchange.forwarded());
    assert!(sent_on.contains(&"idempotency-fence") && !sent_on.contains(&"idempotency-proof"));
    assert!(!exchange.is_pending());

    // Whether another copy was let through, nobody knows: it is refused as one that may be executed.
    for (result, expected) in [
        (Ok(Answer::Spent), 409),
        (outage_again(), 503),
        (left(1), 503),
    ] {
        let mut exchange = relayed();
        assert_eq!(exchange.answer(result, NOW), Step::Reply);
        assert_eq!(
            (status(&exchange), exchange.is_pending()),
            (expected, false)
        );
    }
    // Of no execution (any more): a client's request.
    let mut exchange = relayed();
    assert_eq!(exchange.answer(Ok(Answer::Lost), NOW), Step::Call);
    assert!(matches!(exchange.pending, Some(Operation::Acquire(_))));
}
