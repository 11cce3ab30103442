//! Seeded scripts: what clients do with one key.

use fastrand::Rng;

use super::{Behaviour, Reset, Rules};
use crate::clock::{Micros, MS, SECOND};

/// The callers.
const TENANTS: [&str; 2] = ["acme", "globex"];

/// The life of one key. The same seed, index and settings give the same script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    /// The key.
    pub key: String,
    /// Index of its rule.
    pub rule: usize,
    /// The payload, and another one.
    pub payloads: [Vec<u8>; 2],
    /// What is tried, in order of time.
    pub attempts: Vec<Attempt>,
}

/// One operation of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// When, from the script's beginning.
    pub after: Micros,
    /// Through which Envoy.
    pub gateway: usize,
    /// How.
    pub http: Http,
    /// For whom.
    pub tenant: &'static str,
    /// Which of the script's payloads.
    pub payload: usize,
    /// To where the upstream has sent the client, instead of the rule's own path.
    pub moved: bool,
    /// What the upstream does, should it execute this.
    pub behaviour: Behaviour,
    /// If the client leaves before the end.
    pub leave: Option<Leave>,
}

/// Protocol between client and gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Http {
    /// HTTP/1.1.
    One,
    /// HTTP/2.
    Two,
}

/// How a client leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leave {
    /// When, from its beginning.
    pub after: Micros,
    /// With a reset of the connection instead of an orderly close.
    pub reset: bool,
    /// Having sent only a part of the body.
    pub half_sent: bool,
}

/// Makes scripts.
#[derive(Debug, Clone)]
pub struct Scripts {
    /// Where all choices come from.
    pub seed: u64,
    /// How many Envoys there are.
    pub gateways: usize,
    /// The rules.
    pub rules: Rules,
    /// The rules that are called, by their paths; empty: all.
    pub only: Vec<String>,
}

impl Scripts {
    /// The script with this number.
    pub fn script(&self, index: u64) -> Script {
        let mut rng = Rng::with_seed(self.seed);
        // Scripts must not overlap in the sequence of one generator.
        let seed = rng.u64(..) ^ index.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut rng = Rng::with_seed(seed);
        let rule = self.rule(&mut rng);
        let key = format!("k-{index}");
        let payloads = [payload(&mut rng, &key, 0), payload(&mut rng, &key, 1)];
        let home = rng.usize(..self.gateways);
        let caller = rng.usize(..TENANTS.len());
        // Some keys are used by two tenants, some with two payloads.
        let (shared, changed) = (chance(&mut rng, 15), chance(&mut rng, 20));
        // For some, the upstream is elsewhere: clients begin at the rule's path, and follow.
        let elsewhere = chance(&mut rng, 12);
        let mut attempts = Vec::new();
        for after in self.times(&mut rng) {
            let first = attempts.is_empty();
            let moved = elsewhere && !first && chance(&mut rng, 60);
            let mut behaviour = self.behaviour(&mut rng, rule, first);
            if elsewhere && !moved && chance(&mut rng, 90) {
                behaviour = Behaviour::answering(pick(&mut rng, &[307, 308]));
                behaviour.delay_ms = rng.u64(..30);
            }
            attempts.push(Attempt {
                after,
                gateway: if chance(&mut rng, 75) {
                    home
                } else {
                    rng.usize(..self.gateways)
                },
                http: if chance(&mut rng, 60) {
                    Http::One
                } else {
                    Http::Two
                },
                tenant: TENANTS[(caller + usize::from(shared && rng.bool())) % TENANTS.len()],
                payload: usize::from(changed && !first && chance(&mut rng, 40)),
                moved,
                behaviour,
                leave: chance(&mut rng, 15).then(|| leave(&mut rng)),
            });
        }
        Script {
            key,
            rule,
            payloads,
            attempts,
        }
    }

    fn rule(&self, rng: &mut Rng) -> usize {
        let rules = self.rules.rules.iter().enumerate();
        let called =
            rules.filter(|(_, rule)| self.only.is_empty() || self.only.contains(&rule.path));
        let called: Vec<_> = called.map(|(index, _)| index).collect();
        rng.choice(called).unwrap_or(0)
    }

    /// When a script's attempts begin.
    fn times(&self, rng: &mut Rng) -> Vec<Micros> {
        if chance(rng, 3) {
            let crowd = rng.usize(10..30);
            return vec![0; crowd];
        }
        let mut times = vec![0];
        let mut last = 0;
        while times.len() < 12 && chance(rng, 72) {
            last += match rng.u8(..100) {
                0..35 => rng.u64(..3 * MS),
                35..70 => rng.u64(3 * MS..600 * MS),
                70..93 => rng.u64(SECOND..4 * SECOND),
                // When the first one's lease is over.
                _ => self.rules.lease_ms * MS + rng.u64(..2 * SECOND),
            };
            times.push(last);
        }
        times
    }

    fn behaviour(&self, rng: &mut Rng, rule: usize, first: bool) -> Behaviour {
        let mut behaviour = Behaviour::created();
        behaviour.more_headers = chance(rng, 30);
        behaviour.delay_ms = rng.u64(..30);
        let rule = self.rules.rules.get(rule);
        let timeout_ms = rule.map_or(0, |rule| rule.timeout_ms);
        let lease_ms = self.rules.lease_ms;
        // Retries mostly meet an upstream that works.
        let which = if first {
            rng.u8(..100)
        } else {
            rng.u8(..60) + rng.u8(..41)
        };
        match which {
            0..45 => {}
            45..60 => behaviour.delay_ms = rng.u64(100..lease_ms * 3 / 10),
            // Inline, longer than the first lease.
            60..62 => behaviour.delay_ms = timeout_ms * 7 / 10,
            62..68 => {
                behaviour.bytes = Some(match rng.u8(..8) {
                    // More than is kept.
                    0 => rng.u32(1_048_577..1_200_000),
                    _ => rng.u32(..100_000),
                });
                behaviour.chunked = rng.bool();
            }
            68..71 => behaviour.status = 204,
            71..76 => behaviour.status = pick(rng, &[400, 402, 404, 409, 422]),
            76..84 => {
                behaviour.status = pick(rng, &[409, 429, 503, 503]);
                behaviour.retry_after = true;
            }
            84..91 => behaviour.status = pick(rng, &[500, 502, 503, 504]),
            91..97 => {
                behaviour.reset = Some(pick(rng, &[Reset::Before, Reset::Headers, Reset::Mid]));
            }
            _ => behaviour.delay_ms = timeout_ms + 1_500,
        }
        behaviour
    }
}

fn chance(rng: &mut Rng, percent: u8) -> bool {
    rng.u8(..100) < percent
}

fn pick<T: Copy>(rng: &mut Rng, from: &[T]) -> T {
    from[rng.usize(..from.len())]
}

fn leave(rng: &mut Rng) -> Leave {
    Leave {
        // From a quarter of a millisecond to two seconds, each doubling as likely as the next.
        after: (250 << rng.u32(..13)) + rng.u64(..1_000),
        reset: rng.bool(),
        half_sent: chance(rng, 10),
    }
}

fn payload(rng: &mut Rng, key: &str, number: u8) -> Vec<u8> {
    let size = if chance(rng, 5) {
        rng.usize(20_000..60_000)
    } else {
        rng.usize(..300)
    };
    let text: String = std::iter::repeat_with(|| rng.alphanumeric())
        .take(size)
        .collect();
    format!("{{\"number\":{number},\"id\":\"{key}\",\"text\":\"{text}\"}}").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scripts(seed: u64) -> Scripts {
        Scripts {
            seed,
            gateways: 2,
            rules: Rules::with_lease(5_000),
            only: Vec::new(),
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_script_and_another_one_another() {
        for index in 0..200 {
            assert_eq!(scripts(7).script(index), scripts(7).script(index));
        }
        let differ = (0..200).filter(|n| scripts(7).script(*n) != scripts(8).script(*n));
        assert_eq!(differ.count(), 200);
    }

    #[test]
    fn everything_that_is_promised_occurs() {
        let all: Vec<_> = (0..2_000).map(|index| scripts(1).script(index)).collect();
        let attempts: Vec<_> = all.iter().flat_map(|script| &script.attempts).collect();
        let any = |test: &dyn Fn(&Attempt) -> bool| attempts.iter().any(|a| test(a));
        assert!(any(&|a| a.leave.is_some_and(|leave| leave.half_sent)));
        assert!(any(&|a| a.leave.is_some_and(|leave| leave.reset)));
        assert!(any(&|a| a.payload == 1));
        assert!(any(&|a| a.after > 5 * SECOND));
        for status in [201, 204, 402, 429, 500, 503] {
            assert!(any(&|a| a.behaviour.status == status), "{status}");
        }
        for reset in [Reset::Before, Reset::Headers, Reset::Mid] {
            assert!(any(&|a| a.behaviour.reset == Some(reset)), "{reset:?}");
        }
        assert!(any(&|a| a.behaviour.delay_ms > 8_000));
        assert!(any(&|a| !a.behaviour.is_kept()));
        assert!(any(&|a| (5_001..7_000).contains(&a.behaviour.delay_ms)));
        let tenants = |script: &Script| {
            let of = |tenant: &str| script.attempts.iter().any(|a| a.tenant == tenant);
            TENANTS.into_iter().filter(|tenant| of(tenant)).count()
        };
        assert!(all.iter().any(|script| tenants(script) == 2));
        assert!(any(&|a| matches!(a.behaviour.status, 307 | 308)));
        assert!(any(&|a| a.moved && a.payload == 1));
        assert!(any(
            &|a| a.behaviour.status == 409 && a.behaviour.retry_after
        ));
        for rule in 0..scripts(1).rules.rules.len() {
            assert!(all.iter().any(|script| script.rule == rule), "{rule}");
        }
        assert!(all.iter().any(|script| script.attempts.len() > 12));
        assert!(attempts.len() > 2 * all.len(), "{}", attempts.len());
    }
}
