//! What is done with a delivery: all decisions, without a store and without a clock.

use super::failure::FailureMeaning;
use super::verdict::Reason;
use std::time::Duration;

/// Longest time until somebody looks again for the end of another consumer's execution.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Shortest.
const SOON: Duration = Duration::from_millis(20);

/// What the store said to the acquire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FoundMessage {
    Granted { number: u32 },
    Done,
    InFlight { lease_left: Duration },
    Mismatch,
    NotComparable,
    Unknown,
}

/// What follows from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Run,
    Skip,
    /// Not counted as an attempt.
    Later(Duration),
    PutAside(Reason),
}

/// What is done with a message that was found so. `unknown` comes only where it is not run again: else the store has
/// granted it.
pub(super) fn found(found: FoundMessage, max_attempts: u32) -> Step {
    match found {
        FoundMessage::Granted { number } if number > max_attempts => {
            Step::PutAside(Reason::Poison {
                attempts: max_attempts,
            })
        }
        FoundMessage::Granted { .. } => Step::Run,
        FoundMessage::Done => Step::Skip,
        FoundMessage::InFlight { lease_left } => Step::Later(lease_left.clamp(SOON, LOOK_AGAIN)),
        FoundMessage::Mismatch => Step::PutAside(Reason::OtherContent),
        FoundMessage::NotComparable => Step::PutAside(Reason::NotComparable),
        FoundMessage::Unknown => Step::PutAside(Reason::Unknown),
    }
}

/// What follows from how the handler ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum After {
    /// Record it as done.
    Record,
    /// Record that it failed, and run it again after a pause.
    Again,
    /// Record that it failed, and put it aside: that was its last attempt.
    Exhausted,
    /// Put it aside, whatever attempt it was.
    Rejected,
    /// Record that nobody knows; the next delivery asks what that means.
    Unknown,
}

/// What is done after the attempt with this number.
pub(super) fn ended(end: Result<(), FailureMeaning>, number: u32, max_attempts: u32) -> After {
    match end {
        Ok(()) => After::Record,
        Err(FailureMeaning::Again) if number >= max_attempts => After::Exhausted,
        Err(FailureMeaning::Again) => After::Again,
        Err(FailureMeaning::Reject) => After::Rejected,
        Err(FailureMeaning::Unknown) => After::Unknown,
    }
}

/// The pause after the failed attempt with this number: twice as long each time.
pub(super) fn pause(first: Duration, longest: Duration, number: u32) -> Duration {
    let doublings = number.saturating_sub(1).min(30);
    first.saturating_mul(1 << doublings).min(longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: fn(u64) -> Duration = Duration::from_secs;

    #[test]
    fn what_is_done_with_a_delivery() {
        let granted = |number| FoundMessage::Granted { number };
        let in_flight = |lease_left| FoundMessage::InFlight { lease_left };
        let table = [
            (granted(1), Step::Run),
            (granted(5), Step::Run),
            (granted(6), Step::PutAside(Reason::Poison { attempts: 5 })),
            (
                granted(u32::MAX),
                Step::PutAside(Reason::Poison { attempts: 5 }),
            ),
            (FoundMessage::Done, Step::Skip),
            (in_flight(S(0)), Step::Later(SOON)),
            (
                in_flight(Duration::from_millis(300)),
                Step::Later(Duration::from_millis(300)),
            ),
            (in_flight(S(60)), Step::Later(LOOK_AGAIN)),
            (FoundMessage::Mismatch, Step::PutAside(Reason::OtherContent)),
            (
                FoundMessage::NotComparable,
                Step::PutAside(Reason::NotComparable),
            ),
            (FoundMessage::Unknown, Step::PutAside(Reason::Unknown)),
        ];
        for (what, expected) in table {
            assert_eq!(found(what, 5), expected, "{what:?}");
        }
    }

    #[test]
    fn what_is_done_after_the_handler() {
        let table = [
            (Ok(()), 1, After::Record),
            (Ok(()), 5, After::Record),
            (Err(FailureMeaning::Again), 1, After::Again),
            (Err(FailureMeaning::Again), 4, After::Again),
            (Err(FailureMeaning::Again), 5, After::Exhausted),
            (Err(FailureMeaning::Again), 6, After::Exhausted),
            (Err(FailureMeaning::Reject), 1, After::Rejected),
            (Err(FailureMeaning::Reject), 5, After::Rejected),
            (Err(FailureMeaning::Unknown), 1, After::Unknown),
            (Err(FailureMeaning::Unknown), 5, After::Unknown),
        ];
        for (end, number, expected) in table {
            assert_eq!(ended(end, number, 5), expected, "{end:?} of {number}");
        }
    }

    #[test]
    fn pauses_double_up_to_the_longest() {
        let pauses: Vec<u64> = (0..8).map(|n| pause(S(1), S(30), n).as_secs()).collect();
        assert_eq!(pauses, [1, 1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(pause(S(1), S(30), u32::MAX), S(30));
    }
}
