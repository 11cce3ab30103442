//! What one callback of the host brings and makes is worked off once, in order, and not one inside the
//! other.

use super::bench::{granted, Bench};
use super::fake::Phase;
use idempotency_protocol::*;

/// Many answers in one callback: a host that gives no callbacks any more and refuses calls, too, has the
/// filter give up all that waits.
#[test]
fn thousands_of_answers_in_one_callback_need_no_stack() {
    const MANY: u32 = 5_000;
    let test = || {
        let mut bench = Bench::new();
        let streams = 10..10 + MANY;
        for stream in 9..10 + MANY {
            bench.open(stream);
        }
        assert_eq!(bench.names(), ["acquire"]);
        bench.host().refuse_queue.set(true);
        bench.host().refuse_calls.set(true);
        bench.grant();
        assert_eq!(bench.phase(9), Phase::Forwarded);
        for stream in streams {
            assert_eq!(bench.phase(stream), Phase::Replied(503), "{stream}");
        }
    };
    let thread = std::thread::Builder::new().stack_size(256 * 1024);
    thread.spawn(test).expect("a thread").join().expect("done");
}

#[test]
fn renewals_are_first_then_settlements_then_what_begins() {
    let mut bench = Bench::new();
    // 9 and 8 run, the response of 8 is over, and two requests have begun; one call brings the answers.
    for stream in [9, 8] {
        bench.open(stream);
        bench.grant();
    }
    bench.pass(29_950);
    bench.open(7);
    bench.open(10);
    bench.open(11);
    bench.respond(8);
    bench.pass(100);
    bench.grant();
    assert_eq!(bench.names(), ["complete", "extend", "acquire", "acquire"]);
    *bench.host().done.borrow_mut() = Some(Vec::new());
    let completed = Answer::Completed { expires_at_ms: 5 };
    // That a lease was lost is told at once, and what was renewed is counted at the tick.
    bench.answers(vec![completed, Answer::Lost, granted(), granted()]);
    let done = bench.host().done.borrow_mut().take();
    let expected = ["lost", "response 8", "request 10", "request 11"];
    assert_eq!(done.expect("noted"), expected);
}
