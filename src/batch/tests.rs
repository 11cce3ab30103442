//! The scheduler as a table: what comes, and what is done.

use super::*;

/// One thing that happens to a [`Batches`].
enum On {
    /// An acquire comes.
    Comes(&'static str),
    /// A settlement whose client waits comes.
    Settles(&'static str),
    /// A renewal, or a settlement that nobody waits for, comes.
    Background(&'static str),
    /// One with a body of so many bytes.
    Large(&'static str, usize),
    /// The host calls back, at so many ns.
    Turn(u64),
    /// A batch is back.
    Returned,
    /// The host gives no callbacks.
    GiveUp,
}

use On::*;

const PATIENCE: u64 = 1000;

/// What is done, in words: `alone a`, `leaves a b`, `expired a`, `waits`, then `call`.
fn said(batches: &mut Batches<&'static str>, on: On) -> String {
    let words = |verb: &str, items: &[&str]| match items {
        [] => String::new(),
        items => format!("{verb} {} ", items.join(" ")),
    };
    let call = |call: bool| if call { "call" } else { "" };
    let text = match on {
        Comes(_) | Settles(_) | On::Background(_) | Large(..) => {
            let (item, rank, bytes) = match on {
                Comes(item) => (item, Rank::Acquire, 0),
                Settles(item) => (item, Rank::Settlement, 0),
                On::Background(item) => (item, Rank::Background, 0),
                Large(item, bytes) => (item, Rank::Settlement, bytes),
                _ => unreachable!(),
            };
            match batches.arrive(item, rank, bytes, || 0) {
                Arrival::Alone(item) => words("alone", &[item]),
                Arrival::Leaves(item) => words("leaves", &[item]),
                Arrival::Waits { call: c } => format!("waits {}", call(c)),
            }
        }
        Turn(now) => {
            let turn = batches.turn(now, PATIENCE);
            let (leaves, expired) = (
                words("leaves", &turn.leaves),
                words("expired", &turn.expired),
            );
            format!("{leaves}{expired}{}", call(turn.call))
        }
        Returned => call(batches.returned()).to_owned(),
        GiveUp => words("alone", &batches.give_up()),
    };
    text.trim().to_owned()
}

fn table(limits: BatchLimits, steps: Vec<(On, &str)>) {
    let mut batches = Batches::new(limits);
    for (n, (on, expected)) in steps.into_iter().enumerate() {
        assert_eq!(said(&mut batches, on), expected, "step {n}");
    }
}

fn limits(max_in_flight: usize, max_operations: usize) -> BatchLimits {
    BatchLimits {
        max_in_flight,
        max_operations,
    }
}

#[test]
fn with_nothing_out_an_operation_leaves_at_once() {
    table(
        BatchLimits::default(),
        vec![
            (Comes("a"), "leaves a"),
            (Returned, ""),
            (Comes("b"), "leaves b"),
            (Returned, ""),
        ],
    );
}

#[test]
fn what_comes_in_one_turn_leaves_at_its_end() {
    table(
        limits(2, 64),
        vec![
            (Comes("a"), "leaves a"),
            (Comes("b"), "waits call"),
            (Comes("c"), "waits"),
            (Turn(0), "leaves b c"),
            (Comes("d"), "waits"),
            (Returned, "call"),
            (Comes("e"), "waits"),
            (Turn(0), "leaves d e"),
            (Returned, ""),
            (Returned, ""),
        ],
    );
}

#[test]
fn after_company_an_operation_waits_for_the_end_of_its_turn() {
    table(
        limits(4, 64),
        vec![
            (Comes("a"), "leaves a"),
            (Comes("b"), "waits call"),
            (Comes("c"), "waits"),
            (Turn(0), "leaves b c"),
            (Returned, ""),
            (Returned, ""),
            (Comes("d"), "waits call"),
            (Comes("e"), "waits"),
            (Turn(0), "leaves d e"),
            (Returned, ""),
            (Comes("f"), "waits call"),
            (Turn(0), "leaves f"),
            (Returned, ""),
            // Alone again.
            (Comes("g"), "leaves g"),
        ],
    );
}

#[test]
fn full_batches_leave_one_per_turn() {
    table(
        limits(3, 2),
        vec![
            (Comes("a"), "leaves a"),
            (Comes("b"), "waits call"),
            (Comes("c"), "waits"),
            (Comes("d"), "waits"),
            (Comes("e"), "waits"),
            (Comes("f"), "waits"),
            (Turn(0), "leaves b c call"),
            (Turn(0), "leaves d e"),
            (Turn(0), ""),
            (Returned, "call"),
            (Returned, ""),
            (Turn(0), "leaves f"),
        ],
    );
}

#[test]
fn an_operation_does_not_overtake_those_that_wait() {
    table(
        limits(1, 64),
        vec![
            (Comes("a"), "leaves a"),
            (Comes("b"), "waits"),
            (Returned, "call"),
            (Comes("c"), "waits"),
            (Turn(0), "leaves b c"),
        ],
    );
}

#[test]
fn nothing_is_shared_where_the_configuration_says_so() {
    table(
        limits(0, 64),
        vec![
            (Comes("a"), "alone a"),
            (Comes("b"), "alone b"),
            (Turn(0), ""),
        ],
    );
}

#[test]
fn large_ones_travel_alone_and_smaller_ones_share_a_budget() {
    let most = MAX_SHARED_OUTCOME;
    table(
        limits(1, 64),
        vec![
            (Large("a", most + 1), "alone a"),
            (Large("b", most), "leaves b"),
            (Large("c", most + 1), "alone c"),
            (Large("d", most), "waits"),
            (Large("e", most), "waits"),
            (Large("f", most), "waits"),
            (Large("g", most), "waits"),
            (Settles("h"), "waits"),
            (Large("i", 1), "waits"),
            (Returned, "call"),
            (Turn(0), "leaves d e f g h"),
            (Returned, "call"),
            (Turn(0), "leaves i"),
        ],
    );
}

#[test]
fn what_waits_too_long_is_given_up_a_batch_at_a_time() {
    table(
        limits(1, 2),
        vec![
            (Comes("a"), "leaves a"),
            (Comes("b"), "waits"),
            (Comes("c"), "waits"),
            (Comes("d"), "waits"),
            (Turn(PATIENCE - 1), ""),
            (Turn(PATIENCE), "expired b c call"),
            (Turn(PATIENCE), "expired d"),
            (Turn(PATIENCE), ""),
            (Returned, ""),
            (Comes("e"), "leaves e"),
        ],
    );
}

#[test]
fn what_ends_an_execution_leaves_before_what_begins_one() {
    table(
        limits(1, 3),
        vec![
            (Comes("a"), "leaves a"),
            (Comes("b"), "waits"),
            (Comes("c"), "waits"),
            (Settles("d"), "waits"),
            (On::Background("e"), "waits"),
            (Returned, "call"),
            (Turn(0), "leaves d e b"),
            (Returned, "call"),
            (Turn(0), "leaves c"),
        ],
    );
}

/// Found by the fuzzer: a worker whose callbacks come late gave all of them up, each time anew.
#[test]
fn what_no_client_waits_for_is_never_given_up() {
    table(
        limits(1, 2),
        vec![
            (Comes("a"), "leaves a"),
            (On::Background("b"), "waits"),
            (Settles("c"), "waits"),
            (On::Background("d"), "waits"),
            (Comes("e"), "waits"),
            (Turn(PATIENCE), "expired c e call"),
            (Turn(PATIENCE), ""),
            (Returned, "call"),
            (Turn(9 * PATIENCE), "leaves b d"),
        ],
    );
}

#[test]
fn an_acquire_that_still_waits_can_be_taken_back() {
    let mut batches = Batches::new(limits(1, 64));
    for (item, rank) in [
        ("out", Rank::Acquire),
        ("waits", Rank::Acquire),
        ("settles", Rank::Settlement),
    ] {
        batches.arrive(item, rank, 0, || 0);
    }
    let mut withdraw = |name: &str| batches.withdraw(|item| *item == name);
    assert_eq!(withdraw("out"), None, "it has left");
    assert_eq!(withdraw("settles"), None, "it is no acquire");
    assert_eq!(withdraw("waits"), Some("waits"));
    assert_eq!(withdraw("waits"), None);
    batches.returned();
    assert_eq!(batches.turn(0, PATIENCE).leaves, ["settles"]);
}

#[test]
fn a_lost_callback_is_made_up_for_by_the_tick() {
    table(
        limits(2, 64),
        vec![
            (Comes("a"), "leaves a"),
            (Comes("b"), "waits call"),
            (Returned, ""),
            (Comes("c"), "waits"),
            (Turn(1), "leaves b c"),
            (Comes("d"), "waits call"),
        ],
    );
}

#[test]
fn a_host_without_callbacks_gets_one_callout_per_operation() {
    table(
        limits(2, 64),
        vec![
            (Comes("a"), "leaves a"),
            (Comes("b"), "waits call"),
            (GiveUp, "alone b"),
            (Comes("c"), "alone c"),
            (Returned, ""),
            (Turn(0), ""),
        ],
    );
}

#[test]
fn a_clock_that_runs_backwards_expires_nothing() {
    let mut batches = Batches::new(limits(1, 64));
    assert_eq!(
        batches.arrive("a", Rank::Acquire, 0, || 5000),
        Arrival::Leaves("a")
    );
    assert_eq!(
        batches.arrive("b", Rank::Acquire, 0, || 5000),
        Arrival::Waits { call: false }
    );
    assert!(batches.turn(0, PATIENCE).expired.is_empty());
    assert_eq!(batches.len(), 1);
}
