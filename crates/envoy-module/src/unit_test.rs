//! A worker's filter in front of an Envoy that is played: who carries callouts, and what a panic leaves.

use super::*;
use crate::fake::{asked, install, stream, Sent};
use idempotency_protocol::{Answer as Said, Grant, Operation, Request, Response};

const CONFIG: &str = r#"{
    "service": { "target": "service", "token": "gateway-token-0123456789", "timeout_ms": 5000 },
    "rules": [{ "name": "charges", "match": { "path_prefix": "/charges" }, "scope": "global", "lease_ms": 120000 }]
}"#;

struct Worker {
    home: Arc<Home>,
    unit: Arc<Unit>,
}

impl Worker {
    fn new() -> Worker {
        install();
        let home = Home::new(stream(1), Bytes::from_static(CONFIG.as_bytes())).expect("a home");
        let unit = Unit::new(&home).expect("a unit");
        home.add(&unit);
        Worker { home, unit }
    }

    /// A request without a body comes, and is held.
    fn request(&self, number: usize) -> Handle {
        let handle = self.unit.begin(stream(number)).expect("a stream");
        assert_eq!(self.unit.request_headers(&handle, true), status::HOLD);
        handle
    }

    fn answer(&self, handle: &Handle, id: u64, said: Vec<Said>) {
        self.unit.answered(handle, id, Some(answer(said)));
    }
}

fn answer(answers: Vec<Said>) -> Answer {
    Answer {
        fields: 1,
        status: Some(Bytes::from_static(b"200")),
        body: Response { answers }.encode().into(),
    }
}

fn grant() -> Said {
    Said::Granted(Grant {
        fence: 7,
        attempt: 1,
        lease_ms: 120_000,
    })
}

fn sent() -> Vec<Sent> {
    asked(|a| std::mem::take(&mut a.sent))
}

fn done() -> Vec<(usize, String)> {
    asked(|a| std::mem::take(&mut a.done))
}

/// The names of the operations of a callout, with their keys.
fn operations(sent: &Sent) -> Vec<(String, String)> {
    let received = Request::decode(sent.body.clone().into()).expect("a message");
    let all = received.all().expect("operations");
    let name = |operation: &Operation| format!("{operation:?}");
    let first = |text: String| {
        text.split(['(', ' ', '{'])
            .next()
            .unwrap_or_default()
            .to_owned()
    };
    all.iter()
        .map(|o| (first(name(o)), o.key().key.clone()))
        .collect()
}

fn named(name: &str, key: &str) -> Vec<(String, String)> {
    vec![(name.to_owned(), key.to_owned())]
}

#[test]
fn a_request_is_held_and_goes_on_when_it_is_granted() {
    let worker = Worker::new();
    let a = worker.request(10);
    let out = sent();
    assert_eq!((out.len(), out[0].whose), (1, 10));
    assert_eq!(operations(&out[0]), named("Acquire", "key-10"));
    assert_eq!(done(), []);
    worker.answer(&a, out[0].id, vec![grant()]);
    assert_eq!(done(), [(10, "request goes on".to_owned())]);
}

#[test]
fn a_callout_is_carried_over_and_its_answer_is_for_who_asked() {
    let worker = Worker::new();
    let a = worker.request(20);
    let b = worker.request(21);
    let first = sent();
    assert_eq!(first.len(), 1, "the second waits for a turn: {first:?}");
    // Both are asked for by now, each by one callout.
    worker.unit.scheduled();
    let second = sent();
    assert_eq!(operations(&second[0]), named("Acquire", "key-21"));
    assert_eq!(second[0].whose, 21);
    // The first client leaves. What it asked is asked again, word for word, by the one that waits.
    worker.unit.end(&a);
    let again = sent();
    let moved = again.iter().find(|s| s.body == first[0].body);
    let moved = moved.expect("it is sent again").clone();
    assert_eq!(moved.whose, 21);
    // Envoy's number of the first carrier is nobody's any more.
    worker.answer(&a, first[0].id, vec![grant()]);
    assert_eq!(done(), []);
    // The grant was for the client that left: its key is freed, and the other request does not go on.
    worker.answer(&b, moved.id, vec![grant()]);
    assert_eq!(done(), []);
    let mut freed = sent();
    worker.unit.scheduled();
    freed.extend(sent());
    let freed: Vec<_> = freed.iter().flat_map(operations).collect();
    assert_eq!(freed, named("Fail", "key-20"));
    worker.answer(&b, second[0].id, vec![grant()]);
    assert_eq!(done(), [(21, "request goes on".to_owned())]);
}

#[test]
fn when_the_last_stream_ends_the_main_thread_goes_on() {
    let worker = Worker::new();
    let a = worker.request(30);
    let first = sent();
    worker.unit.end(&a);
    assert_eq!(
        sent(),
        [],
        "a worker without streams has nobody to carry it"
    );
    assert!(asked(|a| a.main_rung) > 0);
    worker.home.turn();
    let by_main = sent();
    assert_eq!(by_main.len(), 1);
    assert_eq!((by_main[0].whose, &by_main[0].body), (0, &first[0].body));
    let rung = asked(|a| a.main_rung);
    worker
        .home
        .answered(by_main[0].id, Some(answer(vec![grant()])));
    assert!(asked(|a| a.main_rung) > rung);
    worker.home.turn();
    let freed = sent();
    assert_eq!(operations(&freed[0]), named("Fail", "key-30"));
    worker
        .home
        .answered(freed[0].id, Some(answer(vec![Said::Failed])));
    assert_eq!(worker.unit.close(), 0);
}

#[test]
fn the_main_threads_answer_reaches_a_worker_that_has_a_stream_again() {
    let worker = Worker::new();
    let a = worker.request(40);
    sent();
    worker.unit.end(&a);
    worker.home.turn();
    let by_main = sent();
    let b = worker.request(41);
    worker
        .home
        .answered(by_main[0].id, Some(answer(vec![grant()])));
    assert_eq!(done(), []);
    assert!(asked(|a| a.rung) > 0, "the worker is called");
    worker.unit.scheduled();
    let out = sent();
    let asked_for = out.iter().flat_map(operations).collect::<Vec<_>>();
    assert_eq!(asked_for, named("Acquire", "key-41"));
    // The grant was for the client that left.
    assert_eq!(done(), []);
    // What frees its key was left to the main thread, which sends it although a stream lives.
    worker.home.turn();
    let freed = sent();
    assert_eq!(operations(&freed[0]), named("Fail", "key-40"));
    assert_eq!(freed[0].whose, 0);
    worker.answer(&b, out[0].id, vec![grant()]);
    assert_eq!(done(), [(41, "request goes on".to_owned())]);
}

#[test]
fn a_callout_that_cannot_be_sent_is_an_outage() {
    let worker = Worker::new();
    asked(|a| a.refuses = true);
    let _a = worker.request(50);
    assert_eq!(done(), [(50, "503".to_owned())]);
}

#[test]
fn a_hook_that_comes_from_inside_of_a_resume_finds_the_filter_free() {
    let worker = Worker::new();
    thread_local! {
        static RUN: std::cell::RefCell<Option<(Arc<Unit>, Arc<Handle>)>> = const { std::cell::RefCell::new(None) };
        static GAVE: Cell<Option<u32>> = const { Cell::new(None) };
    }
    let a = Arc::new(worker.request(60));
    RUN.set(Some((Arc::clone(&worker.unit), Arc::clone(&a))));
    asked(|asked| {
        asked.on_resume = Some(|_| {
            let (unit, handle) = RUN.take().expect("once");
            GAVE.set(Some(unit.response_headers(&handle, true)));
        });
    });
    let out = sent();
    worker.answer(&a, out[0].id, vec![grant()]);
    assert!(GAVE.get().is_some());
    // An answer of whom nobody knows is no outcome: the key is given up as unknown.
    let settled: Vec<_> = sent().iter().flat_map(operations).collect();
    assert_eq!(settled, named("Abandon", "key-60"));
}

#[test]
fn a_panic_refuses_what_was_under_way_and_nothing_else() {
    let worker = Worker::new();
    let waits = worker.request(70);
    let responds = worker.request(71);
    let passes = worker.unit.begin(stream(72)).expect("a stream");
    let _ = worker.unit.with(|core| {
        let mut state = core.state();
        state.streams.respond(responds.number);
        state.streams.pass(passes.number);
    });
    let before = sent();
    let panicked: Result<(), NotRun> = worker.unit.with(|_| panic!("a defect"));
    assert_eq!(panicked, Err(NotRun::Panicked));
    worker.unit.drain(None);
    let mut ended = done();
    ended.sort();
    assert_eq!(ended, [(70, "503".to_owned()), (71, "cut".to_owned())]);
    // Answers for the old filter are for nobody.
    worker.answer(&waits, before[0].id, vec![grant()]);
    assert_eq!(worker.unit.request_trailers(&waits), status::HOLD);
    assert_eq!(done(), []);
    // And the next request is served.
    let next = worker.request(73);
    let out = sent();
    assert_eq!(operations(&out[0]), named("Acquire", "key-73"));
    worker.answer(&next, out[0].id, vec![grant()]);
    assert_eq!(done(), [(73, "request goes on".to_owned())]);
}
