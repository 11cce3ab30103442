//! Each rule, broken and kept.

use super::*;

fn pseudo() -> Vec<(Bytes, Bytes)> {
    [(":method", "POST"), (":path", "/v1"), (":authority", "a")]
        .map(|(n, v)| (n.into(), v.into()))
        .to_vec()
}

fn dispatch(rules: &mut KongRules) -> Judged<()> {
    let headers = pseudo();
    rules.call(Hostcall::Callout {
        target: "unix:/run/s.sock",
        headers: &headers,
        timeout_ms: 5,
    })
}

fn rule<T: fmt::Debug>(judged: Judged<T>) -> Rule {
    judged.unwrap_err().rule
}

#[test]
fn callouts_have_their_callbacks() {
    for (step, stream, allowed) in [
        (Step::Configure(1), None, false),
        (Step::Tick(1), None, true),
        (Step::RequestHeaders, Some(7), true),
        (Step::RequestBody(3), Some(7), true),
        (Step::ResponseHeaders, Some(7), false),
        (Step::ResponseBody(3), Some(7), false),
        (Step::Log, Some(7), false),
        (Step::Delete, Some(7), false),
    ] {
        let mut rules = KongRules::default();
        rules.begin(step, stream);
        assert_eq!(dispatch(&mut rules).is_ok(), allowed, "{step:?}");
    }
}

#[test]
fn after_a_dispatch_only_pause_and_the_last_answer_resumes() {
    let mut rules = KongRules::default();
    rules.begin(Step::RequestHeaders, Some(7));
    dispatch(&mut rules).unwrap();
    rules.dispatched(1);
    assert_eq!(rules.end(Flow::Pause), Ok(Verdict::Waits));
    assert_eq!(rules.begin_answer(1, 2, 0), Some(7));
    dispatch(&mut rules).unwrap();
    rules.dispatched(2);
    assert_eq!(rules.end(Flow::Continue), Ok(Verdict::Waits));
    assert_eq!(rules.begin_answer(2, 2, 0), Some(7));
    assert_eq!(rules.end(Flow::Continue), Ok(Verdict::GoesOn));

    rules.begin(Step::RequestHeaders, Some(8));
    dispatch(&mut rules).unwrap();
    rules.dispatched(3);
    assert_eq!(rule(rules.end(Flow::Continue)), Rule::ContinueAfterDispatch);

    rules.begin(Step::RequestHeaders, Some(9));
    assert_eq!(rule(rules.end(Flow::Pause)), Rule::PauseWithoutDispatch);
    rules.begin(Step::ResponseBody(1), Some(9));
    assert_eq!(rule(rules.end(Flow::Pause)), Rule::PauseOfResponse);
}

#[test]
fn a_root_does_not_wait_for_somebody_elses_lookup() {
    let ask = |rules: &mut KongRules, target| {
        let headers = pseudo();
        rules.call(Hostcall::Callout {
            target,
            headers: &headers,
            timeout_ms: 5,
        })
    };
    let mut rules = KongRules::default();
    rules.begin(Step::RequestHeaders, Some(7));
    ask(&mut rules, "service.internal:80").unwrap();
    rules.dispatched(1);
    rules.begin(Step::Tick(1), None);
    let beside = ask(&mut rules, "service.internal:80");
    assert_eq!(rule(beside), Rule::LookupBesideAnother);
    ask(&mut rules, "other.internal:80").unwrap();
    ask(&mut rules, "localhost:1").unwrap();
    // Another request may wait, and a lookup that failed is no knowledge.
    rules.begin(Step::RequestHeaders, Some(8));
    ask(&mut rules, "service.internal:80").unwrap();
    rules.dispatched(2);
    rules.begin_answer(1, 0, 0);
    rules.begin(Step::Tick(1), None);
    assert!(ask(&mut rules, "service.internal:80").is_err());
    rules.begin_answer(2, 1, 0);
    rules.begin(Step::Tick(1), None);
    ask(&mut rules, "service.internal:80").unwrap();
}

#[test]
fn a_root_has_one_callout_out_and_none_leaves_from_its_answer() {
    let overlapping = |rules: &mut KongRules| rule(dispatch(rules));
    let mut rules = KongRules::default();
    rules.begin(Step::Tick(1), None);
    dispatch(&mut rules).unwrap();
    rules.dispatched(1);
    assert_eq!(overlapping(&mut rules), Rule::OverlappingRootCallouts);
    rules.begin(Step::Tick(1), None);
    assert_eq!(overlapping(&mut rules), Rule::OverlappingRootCallouts);
    // Another root, and a stream, have nothing to do with it.
    rules.begin(Step::Tick(2), None);
    dispatch(&mut rules).unwrap();
    rules.begin(Step::RequestHeaders, Some(7));
    dispatch(&mut rules).unwrap();
    rules.dispatched(2);
    rules.begin_answer(1, 2, 0);
    assert_eq!(overlapping(&mut rules), Rule::OverlappingRootCallouts);
    rules.begin_answer(2, 2, 0);
    dispatch(&mut rules).unwrap();
    rules.begin(Step::Tick(1), None);
    dispatch(&mut rules).unwrap();
}

#[test]
fn one_local_reply_before_the_response_begins() {
    let mut rules = KongRules::default();
    rules.begin(Step::RequestHeaders, Some(7));
    dispatch(&mut rules).unwrap();
    rules.dispatched(1);
    rules.call(Hostcall::LocalReply(409, 0)).unwrap();
    assert!(!rules.is_pending(1), "cancelled");
    let second = rules.call(Hostcall::LocalReply(409, 0));
    assert_eq!(rule(second), Rule::LocalReplyTooLate);
    assert_eq!(rules.end(Flow::Pause), Ok(Verdict::Replies));
    for (step, stream) in [
        (Step::Tick(1), None),
        (Step::ResponseHeaders, Some(8)),
        (Step::Log, Some(8)),
    ] {
        rules.begin(step, stream);
        let reply = rules.call(Hostcall::LocalReply(409, 0));
        assert_eq!(rule(reply), Rule::LocalReplyTooLate, "{step:?}");
    }
}

#[test]
fn buffers_are_read_whole_and_in_their_callbacks() {
    use Hostcall::{PrependBuffer, ReadBuffer};
    for (step, call, broken) in [
        (
            Step::RequestBody(9),
            ReadBuffer(Buffer::Request, 0, 9),
            None,
        ),
        (
            Step::RequestBody(9),
            ReadBuffer(Buffer::Request, 1, 8),
            Some(Rule::PartialBufferRead),
        ),
        (
            Step::RequestBody(9),
            ReadBuffer(Buffer::Request, 0, 8),
            Some(Rule::PartialBufferRead),
        ),
        (
            Step::Answer(9),
            ReadBuffer(Buffer::Request, 0, 9),
            Some(Rule::BufferInWrongStep),
        ),
        (
            Step::ResponseHeaders,
            ReadBuffer(Buffer::Response, 0, 9),
            Some(Rule::BufferInWrongStep),
        ),
        (Step::ResponseBody(9), PrependBuffer(Buffer::Response), None),
        (
            Step::ResponseHeaders,
            PrependBuffer(Buffer::Response),
            Some(Rule::BufferWrite),
        ),
        (
            Step::RequestBody(9),
            PrependBuffer(Buffer::Request),
            Some(Rule::BufferWrite),
        ),
    ] {
        let mut rules = KongRules::default();
        rules.begin(step, Some(7));
        assert_eq!(rules.call(call).err().map(|v| v.rule), broken, "{call:?}");
    }
}

#[test]
fn the_rest() {
    let mut rules = KongRules::default();
    rules.begin(Step::Configure(1), None);
    rules.call(Hostcall::SetTick(10)).unwrap();
    assert_eq!(rule(rules.call(Hostcall::SetTick(10))), Rule::TickTwice);
    rules.call(Hostcall::DefineMetric).unwrap();
    let read = Hostcall::Property(&["ngx", "request_uri"]);
    assert_eq!(rule(rules.call(read)), Rule::PropertyOutsideRequest);
    rules.begin(Step::RequestHeaders, Some(7));
    rules.call(read).unwrap();
    assert_eq!(rule(rules.call(Hostcall::DefineMetric)), Rule::MetricsLock);
    let details = Hostcall::Property(&["response", "code_details"]);
    assert_eq!(rule(rules.call(details)), Rule::UnknownProperty);
    let set = Hostcall::SetProperty(&["ngx", "idempotency"]);
    rules.call(set).unwrap();
    let lua = Hostcall::SetProperty(&["kong", "ctx", "shared", "idempotency"]);
    assert_eq!(rule(rules.call(lua)), Rule::UnknownProperty);
    rules.call(Hostcall::WriteHeaders(Map::Request)).unwrap();
    dispatch(&mut rules).unwrap();
    rules.dispatched(1);
    rules.begin_answer(1, 0, 0);
    let status = rules.call(Hostcall::ReadHeaders(Map::CalloutHeaders));
    assert_eq!(rule(status), Rule::HeadersOfNoAnswer);
    rules.begin(Step::ResponseHeaders, Some(7));
    rules.call(Hostcall::WriteHeaders(Map::Response)).unwrap();
    let late = rules.call(Hostcall::WriteHeaders(Map::Request));
    assert_eq!(rule(late), Rule::HeadersInWrongStep);
    rules.begin(Step::Log, Some(7));
    assert_eq!(rule(rules.call(set)), Rule::PropertyOutsideRequest);
    rules.begin(Step::Tick(1), None);
    assert_eq!(rule(rules.call(set)), Rule::PropertyOutsideRequest);
    assert_eq!(
        rule(rules.call(Hostcall::Increment(MetricKind::Gauge))),
        Rule::MetricKind
    );
    assert_eq!(rule(rules.call(Hostcall::Reset)), Rule::ResetIsNoOp);
    assert_eq!(
        rule(rules.call(Hostcall::Resume)),
        Rule::ResumeOutsideRequest
    );
}

#[test]
fn targets() {
    for (target, fine) in [
        ("unix:/run/idempotency/s.sock", true),
        ("127.0.0.1:8080", true),
        ("[::1]:8080", true),
        ("localhost", true),
        ("service.internal:443", true),
        ("http://127.0.0.1:8080", false),
        ("unix:relative", false),
        ("unix:", false),
        ("127.0.0.1:0", false),
        ("127.0.0.1:99999", false),
        ("127.0.0.1:", false),
        ("::1", false),
        ("host/path", false),
        ("", false),
    ] {
        assert_eq!(config::is_kong_target(target), fine, "{target}");
    }
}
