//! A service for random tests: it answers anything, and remembers who was granted what and how it
//! was settled.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use bytes::Bytes;
use idempotency_protocol::*;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// When a sequence begins.
pub(super) const BEGIN_MS: u64 = 1_700_000_000_000;
/// How much time a sequence takes at most. A settlement is given up after 15 minutes (`crate::outbox`), and no
/// host keeps a callout for so long: it has a timeout.
const PATIENCE_MS: u64 = 10 * 60 * 1000;

/// The time of a sequence.
#[derive(Default)]
pub(super) struct Time {
    passed_ms: u64,
}

impl Time {
    /// By how many milliseconds the host's clock goes on until the next tick, and how many such ticks come: a
    /// while passes, or the clock is set.
    pub fn goes_on(&mut self, dice: &mut Dice) -> (i64, u64) {
        const WHILES: [(u32, u64); 5] = [(1, 1), (50, 1), (100, 5), (200, 6), (200, 17)];
        const STEPS: [i64; 5] = [3_000, 31_000, 70_000, -1, -40_000];
        if dice.roll(3) == 0 {
            return (*dice.pick(&STEPS), 1);
        }
        let (ms, times) = *dice.pick(&WHILES);
        self.passed_ms += u64::from(ms) * times;
        match self.passed_ms {
            ..PATIENCE_MS => (ms.into(), times),
            _ => (0, 1),
        }
    }
}

/// A small deterministic generator (xorshift64*), so that a failing seed can be run again. A fuzzer
/// gives bytes, which are used up first: one for each decision.
pub(super) struct Dice {
    state: u64,
    bytes: VecDeque<u8>,
}

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice {
            state: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1,
            bytes: VecDeque::new(),
        }
    }

    #[cfg(feature = "testing")]
    pub fn of_bytes(bytes: &[u8]) -> Dice {
        Dice {
            bytes: bytes.iter().copied().collect(),
            ..Dice::new(0)
        }
    }

    #[cfg(feature = "testing")]
    pub fn is_used_up(&self) -> bool {
        self.bytes.is_empty()
    }

    pub fn roll(&mut self, sides: u64) -> u64 {
        if let Some(byte) = self.bytes.pop_front() {
            return u64::from(byte) % sides;
        }
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        (self.state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % sides
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[usize::try_from(self.roll(from.len() as u64)).unwrap()]
    }
}

/// Runs a sequence for each seed, on all cores, and adds up what they reached.
#[cfg(test)]
pub(super) fn run_all<const N: usize>(
    sequences: u64,
    sequence: impl Fn(u64) -> [u64; N] + Sync + std::panic::RefUnwindSafe,
) -> [u64; N] {
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let part = |first: u64| {
        let mut reached = [0; N];
        for seed in (first..=sequences).step_by(usize::try_from(cores).unwrap()) {
            let outcome = std::panic::catch_unwind(|| sequence(seed));
            let Ok(counts) = outcome else {
                panic!("seed {seed} fails, see above")
            };
            for (sum, count) in reached.iter_mut().zip(counts) {
                *sum += count;
            }
        }
        reached
    };
    std::thread::scope(|scope| {
        let parts: Vec<_> = (1..=cores).map(|n| scope.spawn(move || part(n))).collect();
        let mut sum = [0; N];
        for reached in parts.into_iter().map(|part| part.join().expect("a part")) {
            for (sum, count) in sum.iter_mut().zip(reached) {
                *sum += count;
            }
        }
        sum
    })
}

/// Who was granted what, and how it was settled.
#[derive(Default)]
pub(super) struct Ledger {
    pub granted: BTreeSet<Owner>,
    settled: BTreeMap<Owner, &'static str>,
    /// Owners whose acquire got no usable answer.
    unanswered: BTreeSet<Owner>,
    /// Most operations in one call.
    pub most_together: usize,
}

/// What comes back for a call: how many headers, `:status`, body.
pub(super) struct Answered {
    pub headers: usize,
    pub status: &'static str,
    pub body: Bytes,
}

impl Ledger {
    /// Answers a call; `well`: as a healthy service would. `heard`: the answer reaches the filter.
    pub fn answer(&mut self, dice: &mut Dice, call: Bytes, well: bool, heard: bool) -> Answered {
        // What does not decode is a wait.
        let operations: Vec<_> = match Request::decode(call) {
            Ok(received) => received.items.into_iter().map(Result::ok).collect(),
            Err(_) => vec![None],
        };
        let shared = operations.len() > 1;
        self.most_together = self.most_together.max(operations.len());
        let answered = well || dice.roll(4) != 0;
        let mut answers = Vec::new();
        for operation in &operations {
            let answer = service_answer(dice, operation.as_ref(), well, shared);
            if let Some(Operation::Acquire(acquire)) = operation {
                // One that was sent once more is what it was answered in the end.
                self.unanswered.remove(&acquire.owner);
                match &answer {
                    _ if !answered || !heard => drop(self.unanswered.insert(acquire.owner)),
                    Answer::Granted(_) => drop(self.granted.insert(acquire.owner)),
                    _ => {}
                }
            }
            self.note_settlement(operation.as_ref());
            answers.push(answer);
        }
        if !answered {
            return Answered {
                headers: usize::from(dice.roll(2) == 0),
                status: dice.pick::<&'static str>(&["200", "503", "413", "401", "x"]),
                body: (*dice.pick(&[b"" as &[u8], b"\x01\x00\x01\xff", b"<html>"])).into(),
            };
        }
        Answered {
            headers: 1,
            status: "200",
            body: Response { answers }.encode().into(),
        }
    }

    fn note_settlement(&mut self, operation: Option<&Operation>) {
        let Some(operation) = operation else { return };
        let owner = match operation {
            Operation::Complete(c) => c.owner,
            Operation::Fail { owner, .. } | Operation::Abandon { owner, .. } => *owner,
            _ => return,
        };
        let name = operation.name();
        let before = self.settled.insert(owner, name);
        assert!(
            before.is_none_or(|b| b == name),
            "settled as {before:?}, then as {name}"
        );
    }

    /// Nothing was left open.
    pub fn check(&self) {
        for owner in self.granted.iter().chain(&self.unanswered) {
            assert!(
                self.settled.contains_key(owner),
                "a lease was never settled"
            );
        }
    }
}

fn service_answer(
    dice: &mut Dice,
    operation: Option<&Operation>,
    well: bool,
    shared: bool,
) -> Answer {
    let wild = !well && dice.roll(8) == 0;
    let fence = 7;
    match operation {
        _ if wild => dice
            .pick(&[Answer::Lost, Answer::Failed, Answer::Changed])
            .clone(),
        Some(Operation::Acquire(_)) => match dice.roll(8) {
            0 => Answer::Mismatch,
            1 => Answer::InFlight {
                fence,
                lease_left_ms: 5,
            },
            2 if shared => Answer::AskAlone,
            2 => stored(*dice.pick(&[200, 204, 99, 600])),
            3 => Answer::UnknownOutcome { expires_at_ms: 1 },
            4 => Answer::Fault(Fault {
                code: *dice.pick(&[FaultCode::Capacity, FaultCode::Quota]),
                detail: "full".into(),
            }),
            _ => Answer::Granted(Grant {
                fence,
                attempt: 1,
                lease_ms: 60_000,
            }),
        },
        Some(Operation::Complete(_)) => Answer::Completed { expires_at_ms: 5 },
        Some(Operation::Fail { .. }) => Answer::Failed,
        Some(Operation::Abandon { .. }) => Answer::Abandoned,
        Some(Operation::Extend { lease_ms, .. }) => Answer::Extended {
            lease_ms: *lease_ms,
        },
        Some(Operation::Redeem(_)) => dice
            .pick(&[
                Answer::Redeemed {
                    lease_left_ms: 59_000,
                },
                Answer::Spent,
                Answer::Lost,
            ])
            .clone(),
        Some(Operation::Settle(_)) => unreachable!("the filter never settles"),
        None => dice
            .pick(&[stored(201), Answer::Changed, Answer::TimedOut, Answer::Lost])
            .clone(),
    }
}

fn stored(status: u16) -> Answer {
    let headers = [
        ("content-type", b"a\xffb" as &[u8]),
        ("link", b"<a>"),
        ("link", b"<b>"),
    ];
    let headers = headers
        .map(|(n, v)| (n.into(), Bytes::from_static(v)))
        .to_vec();
    let outcome = Outcome::Response(StoredResponse {
        status,
        headers,
        body: "stored".into(),
    });
    Answer::Stored(Stored {
        outcome: outcome.into(),
        fence: 1,
        attempt: 1,
        age_ms: 1,
        expires_at_ms: 2,
    })
}
