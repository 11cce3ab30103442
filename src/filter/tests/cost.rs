//! What a request may not cost: hostcalls that are made once for many, and looks at the clock.

use super::bench::Bench;
use super::fake::{Phase, ROOT};
use idempotency_protocol::Answer;

fn execute(bench: &mut Bench, stream: u32) {
    bench.open(stream);
    bench.grant();
    bench.respond(stream);
    bench.answers(vec![Answer::Completed { expires_at_ms: 5 }]);
    bench.close(stream);
}

fn sum(bench: &Bench, counter: &str) -> i64 {
    let sums = bench.host().sums.borrow();
    sums.get(counter).copied().unwrap_or_default()
}

fn measured(bench: &Bench) -> u32 {
    let values = bench.host().values.borrow();
    let of = |name: &str| values.get(name).copied().unwrap_or_default();
    assert_eq!(
        of("idempotency_callout_us"),
        of("idempotency_callout_operations")
    );
    of("idempotency_callout_us")
}

#[test]
fn counters_are_told_at_the_tick_and_before_the_root_goes() {
    let mut bench = Bench::new();
    for stream in 10..15 {
        execute(&mut bench, stream);
    }
    assert_eq!(sum(&bench, "idempotency_executed"), 0);
    bench.pass(50);
    for counter in [
        "idempotency_executed",
        "idempotency_completed",
        "idempotency_requests_outcome_executed_rule_rules_0_",
    ] {
        assert_eq!(sum(&bench, counter), 5, "{counter}");
    }
    execute(&mut bench, 15);
    assert!(bench.0.on_done(ROOT));
    assert_eq!(sum(&bench, "idempotency_executed"), 6);
    bench.0.on_delete(ROOT);
    assert_eq!(sum(&bench, "idempotency_executed"), 6, "once");
}

#[test]
fn eight_callouts_are_measured_between_two_ticks() {
    let mut bench = Bench::new();
    bench.pass(50);
    for stream in 10..30 {
        execute(&mut bench, stream);
    }
    assert_eq!(measured(&bench), 8);
    bench.pass(50);
    execute(&mut bench, 30);
    assert_eq!(measured(&bench), 10);
}

#[test]
fn where_nothing_is_measured_the_clock_is_looked_at_for_the_grant_alone() {
    let mut bench = Bench::new();
    bench.pass(50);
    for stream in 10..14 {
        execute(&mut bench, stream);
    }
    let before = bench.host().looks.get();
    execute(&mut bench, 14);
    assert_eq!(bench.host().looks.get() - before, 1);
}

/// The usable part of the default lease, in milliseconds.
const USABLE_MS: i64 = 60_000 - 1_000;

#[test]
fn a_lease_is_counted_from_the_last_look_which_is_too_soon_and_never_too_late() {
    for (passed_ms, phase) in [
        (USABLE_MS - 41, Phase::Forwarded),
        // It was sent that long ago, less the 40 ms since the last tick.
        (USABLE_MS - 40, Phase::Replied(503)),
    ] {
        let mut bench = Bench::new();
        bench.pass(50);
        bench.set_clock(40);
        bench.open(10);
        bench.set_clock(passed_ms);
        bench.grant();
        assert_eq!(bench.phase(10), phase, "{passed_ms}");
    }
}
