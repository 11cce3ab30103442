//! The host's clock is set while executions run, and what waits goes on.

use super::bench::{granted, Bench};
use super::fake::Phase;
use idempotency_protocol::*;

const HOUR: i64 = 3_600_000;

/// Twice in a row; and forwards by mistake, and back again.
const SETTINGS: [&[i64]; 4] = [
    &[-HOUR],
    &[-HOUR, -HOUR],
    &[HOUR, -HOUR],
    &[HOUR, -2 * HOUR],
];

fn set_back(bench: &mut Bench, settings: &[i64]) {
    for by in settings {
        bench.set_clock(*by);
        bench.pass(50);
    }
}

#[test]
fn a_lease_is_renewed_at_half_of_its_time_though_the_clock_was_set_back() {
    for settings in [&[-HOUR] as &[i64], &[-HOUR, -HOUR]] {
        let mut bench = Bench::new();
        bench.open(10);
        bench.grant();
        bench.pass(10_000);
        set_back(&mut bench, settings);
        bench.pass(19_000);
        assert!(bench.names().is_empty(), "{:?}", bench.names());
        bench.pass(1_000);
        assert_eq!(bench.names(), ["extend"]);
        // And so is the renewed one.
        bench.answers(vec![Answer::Extended { lease_ms: 60_000 }]);
        set_back(&mut bench, settings);
        bench.pass(30_000);
        assert_eq!(bench.names(), ["extend"]);
    }
}

/// Nobody can tell it from a gateway that stood still for an hour.
#[test]
fn a_clock_that_is_set_forwards_has_leases_renewed_at_once() {
    let mut bench = Bench::new();
    bench.open(10);
    bench.grant();
    bench.set_clock(HOUR);
    bench.pass(50);
    assert_eq!(bench.names(), ["extend"]);
    bench.answers(vec![Answer::Extended { lease_ms: 60_000 }]);
    bench.set_clock(-HOUR);
    bench.pass(29_000);
    assert!(bench.names().is_empty(), "{:?}", bench.names());
    bench.pass(1_500);
    assert_eq!(bench.names(), ["extend"]);
}

/// A settlement that got no answer.
fn unanswered() -> Bench {
    let mut bench = Bench::new();
    bench.open(10);
    bench.grant();
    bench.close(10);
    assert_eq!(bench.names(), ["abandon"]);
    bench.no_answer();
    assert!(bench.names().is_empty());
    bench
}

#[test]
fn a_settlement_is_sent_again_though_the_clock_was_set_back() {
    for settings in SETTINGS {
        let mut bench = unanswered();
        set_back(&mut bench, settings);
        bench.pass(100);
        assert_eq!(bench.names(), ["abandon"], "{settings:?}");
    }
}

#[test]
fn a_clock_that_is_set_forwards_gives_up_no_settlement() {
    let mut bench = unanswered();
    bench.set_clock(HOUR);
    for _ in 0..3 {
        bench.pass(5_000);
        assert_eq!(bench.names(), ["abandon"]);
        bench.no_answer();
    }
    bench.pass(5_000);
    bench.answers(vec![Answer::Abandoned]);
    bench.pass(5_000);
    assert!(bench.names().is_empty(), "{:?}", bench.names());
}

#[test]
fn a_settlement_is_given_up_after_its_time_though_the_clock_was_set_back() {
    let mut bench = unanswered();
    let mut sent = 0;
    for _ in 0..18 {
        bench.set_clock(-HOUR);
        for _ in 0..11 {
            bench.pass(5_000);
            if !bench.names().is_empty() {
                bench.no_answer();
                sent += 1;
            }
        }
    }
    assert!(sent > 150, "{sent} times in 15 minutes");
    bench.pass(10_000);
    assert!(bench.names().is_empty(), "{:?}", bench.names());
}

/// Two requests; the call of the first one is out, so the second one waits.
fn waiting() -> Bench {
    let mut bench = Bench::new();
    bench.open(10);
    bench.open(11);
    assert_eq!(bench.names(), ["acquire"]);
    bench
}

#[test]
fn a_request_that_waits_for_a_call_is_given_up_though_the_clock_was_set_back() {
    for settings in [&[-HOUR] as &[i64], &[-HOUR, -HOUR]] {
        let mut bench = waiting();
        set_back(&mut bench, settings);
        assert_eq!(bench.phase(11), Phase::Request);
        bench.pass(1_000);
        assert_eq!(bench.phase(11), Phase::Replied(503));
    }
}

#[test]
fn a_clock_that_is_set_forwards_gives_up_no_request_that_waits() {
    let mut bench = waiting();
    bench.set_clock(HOUR);
    bench.pass(100);
    assert_eq!(bench.phase(11), Phase::Request);
    bench.set_clock(-HOUR);
    bench.pass(100);
    assert_eq!(bench.phase(11), Phase::Request);
}

/// Nobody knows any more how old the grant is, whatever the time of day says.
#[test]
fn a_grant_is_too_late_once_the_clock_was_set_back() {
    let mut bench = Bench::new();
    bench.open(10);
    bench.pass(10_000);
    bench.set_clock(-5_000);
    bench.pass(50);
    bench.grant();
    assert_eq!(bench.phase(10), Phase::Replied(503));
    assert_eq!(bench.names(), ["fail"]);

    let mut bench = Bench::new();
    bench.open(10);
    bench.set_clock(-1);
    bench.grant();
    assert_eq!(bench.phase(10), Phase::Replied(503));

    let mut bench = Bench::new();
    bench.open(10);
    bench.pass(10_000);
    bench.grant();
    assert_eq!(bench.phase(10), Phase::Forwarded);
}

#[test]
fn a_clock_that_is_set_forwards_does_not_blame_the_configuration_for_a_slow_body() {
    let mut bench = Bench::new();
    bench.open_with_body(10);
    bench.set_clock(HOUR);
    bench.pass(1_000);
    assert_eq!(bench.phase(10), Phase::Request);
    bench.set_clock(-HOUR);
    bench.pass(2_500);
    assert_eq!(bench.phase(10), Phase::Replied(503));
}

/// A batch of answers that all came with the clock set back: they are what they would have been.
#[test]
fn what_was_renewed_before_the_clock_was_set_is_not_renewed_twice() {
    let mut bench = Bench::new();
    bench.open(10);
    bench.grant();
    bench.pass(30_000);
    assert_eq!(bench.names(), ["extend"]);
    bench.set_clock(-HOUR);
    bench.pass(50);
    bench.answers(vec![Answer::Extended { lease_ms: 60_000 }]);
    bench.pass(29_500);
    assert!(bench.names().is_empty(), "{:?}", bench.names());
    bench.open(11);
    bench.answers(vec![granted()]);
    assert_eq!(bench.phase(11), Phase::Forwarded);
}
