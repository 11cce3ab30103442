//! A seeded plan of faults.

use fastrand::Rng;

use crate::clock::{Micros, MS, SECOND};
use crate::history::{FaultKind, Target};

/// The parts that something can be done to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Topology {
    /// Envoys.
    pub gateways: usize,
    /// Services.
    pub services: usize,
    /// There is a server that keeps the records.
    pub store: bool,
    /// Lease of the rules, in milliseconds.
    pub lease_ms: u64,
}

/// Faults that overlap, and the quiet before them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Episode {
    /// From the end of the episode before.
    pub quiet: Micros,
    /// What is done; each at most once to a part.
    pub faults: Vec<Planned>,
}

/// One fault of an episode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Planned {
    /// To what.
    pub target: Target,
    /// What.
    pub kind: FaultKind,
    /// From the episode's beginning.
    pub after: Micros,
    /// Until it is healed.
    pub lasts: Micros,
}

/// What a run's nemesis does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    /// Nothing.
    Nothing,
    /// Everything, by turns and together, as the seed says.
    Everything,
    /// This one thing again and again, with a quiet second before each.
    Only {
        /// To what.
        target: Target,
        /// What.
        kind: FaultKind,
        /// How long.
        lasts: Micros,
    },
}

impl Topology {
    /// Every part with everything that can be done to it.
    fn targets(&self) -> Vec<(Target, &'static [FaultKind])> {
        const PROCESS: &[FaultKind] = &[FaultKind::Kill, FaultKind::Pause];
        const LINK: &[FaultKind] = &[FaultKind::Refuse, FaultKind::Reset, FaultKind::Stall];
        let mut targets = vec![(Target::Upstream, PROCESS)];
        for gateway in 0..self.gateways {
            targets.extend([
                (Target::Gateway(gateway), PROCESS),
                (Target::ClientLink(gateway), LINK),
                (Target::ServiceLink(gateway), LINK),
                (Target::UpstreamLink(gateway), LINK),
            ]);
        }
        for service in 0..self.services {
            // Most of the promises hang on it.
            targets.extend([(Target::Service(service), PROCESS); 2]);
            if self.store {
                targets.push((Target::StoreLink(service), LINK));
            }
        }
        if self.store {
            targets.extend([(Target::Store, PROCESS); 2]);
        }
        targets
    }
}

impl Plan {
    /// The episode with this number. The same seed gives the same ones.
    pub fn episode(&self, topology: &Topology, seed: u64, number: u64) -> Option<Episode> {
        match *self {
            Self::Nothing => None,
            Self::Everything => Some(everything(topology, seed, number)),
            Self::Only {
                target,
                kind,
                lasts,
            } => Some(Episode {
                quiet: SECOND,
                faults: vec![Planned {
                    target,
                    kind,
                    after: 0,
                    lasts,
                }],
            }),
        }
    }
}

fn everything(topology: &Topology, seed: u64, number: u64) -> Episode {
    let mut rng = Rng::with_seed(!seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    // Long enough that some operations meet no fault at all, or so short that one is still felt
    // when the next one comes.
    let quiet = match number {
        0 => 3 * SECOND,
        _ if rng.u8(..100) < 55 => rng.u64(3 * SECOND..6 * SECOND),
        _ => rng.u64(100 * MS..1_500 * MS),
    };
    let count = match rng.u8(..100) {
        0..55 => 1,
        55..85 => 2,
        _ => 3,
    };
    let mut targets = topology.targets();
    let mut faults: Vec<Planned> = Vec::new();
    while faults.len() < count && !targets.is_empty() {
        let (target, kinds) = targets.swap_remove(rng.usize(..targets.len()));
        if faults.iter().any(|fault| fault.target == target) {
            continue;
        }
        faults.push(Planned {
            target,
            kind: kinds[rng.usize(..kinds.len())],
            after: if faults.is_empty() {
                0
            } else {
                rng.u64(..1_500 * MS)
            },
            lasts: lasts(&mut rng, topology.lease_ms * MS),
        });
    }
    Episode { quiet, faults }
}

/// From a blip to longer than a lease, each doubling as likely as the next.
fn lasts(rng: &mut Rng, lease: Micros) -> Micros {
    let shortest = 50 * MS;
    let doublings = (lease / shortest).max(2).ilog2() + 1;
    let scale = shortest << rng.u32(..doublings);
    scale + rng.u64(..scale)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const TOPOLOGY: Topology = Topology {
        gateways: 2,
        services: 2,
        store: true,
        lease_ms: 5_000,
    };

    fn plan(seed: u64) -> Vec<Episode> {
        let episode = |number| Plan::Everything.episode(&TOPOLOGY, seed, number);
        (0..500).filter_map(episode).collect()
    }

    #[test]
    fn the_same_seed_gives_the_same_plan() {
        assert_eq!(plan(7), plan(7));
        assert_ne!(plan(7), plan(8));
    }

    #[test]
    fn everything_happens_to_every_part_alone_and_together() {
        let episodes = plan(1);
        let faults: Vec<_> = episodes
            .iter()
            .flat_map(|episode| &episode.faults)
            .collect();
        let done: BTreeSet<_> = faults.iter().map(|f| (f.target, f.kind)).collect();
        let possible = TOPOLOGY.targets();
        let possible: BTreeSet<_> = possible
            .iter()
            .flat_map(|(target, kinds)| kinds.iter().map(|kind| (*target, *kind)))
            .collect();
        assert_eq!(done, possible);
        for count in 1..=3 {
            assert!(episodes.iter().any(|episode| episode.faults.len() == count));
        }
        assert!(faults.iter().any(|fault| fault.lasts < 100 * MS));
        assert!(faults.iter().any(|fault| fault.lasts > 5 * SECOND));
        assert!(faults.iter().all(|fault| fault.lasts < 10 * SECOND));
    }

    #[test]
    fn nothing_is_done_twice_to_a_part_at_a_time() {
        for episode in plan(2) {
            let targets: BTreeSet<_> = episode.faults.iter().map(|f| f.target).collect();
            assert_eq!(targets.len(), episode.faults.len());
        }
    }
}
