//! Which offsets may be committed, and by whom: the book-keeping, without Kafka.
//!
//! Every assignment of a partition is a *generation* of its own. What a handler of an earlier generation says changes
//! nothing: the partition may have been somebody else's in between, and Kafka accepts commits for partitions that
//! are not the committer's (any more).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// A partition of a topic.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Partition {
    pub topic: Arc<str>,
    pub partition: i32,
}

/// One assignment of a partition.
pub(crate) type Generation = u64;

/// What is to be done about the flow of a partition's messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    Pause,
    Resume,
}

/// An offset to be committed: the next one to be consumed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Commit {
    pub place: Partition,
    pub generation: Generation,
    pub next: i64,
}

#[derive(Debug)]
pub(crate) struct Ledger {
    partitions: BTreeMap<Partition, Assigned>,
    generations: Generation,
    /// A partition with so many messages that are not done is paused; with half of them it is resumed.
    high_water: usize,
}

#[derive(Debug)]
struct Assigned {
    generation: Generation,
    /// Delivered and not committable yet, in the order of delivery.
    pending: VecDeque<Pending>,
    /// What may be committed.
    next: Option<i64>,
    committed: Option<i64>,
    is_paused: bool,
}

#[derive(Debug)]
struct Pending {
    offset: i64,
    is_done: bool,
}

impl Ledger {
    pub fn new(high_water: usize) -> Ledger {
        Ledger {
            partitions: BTreeMap::new(),
            generations: 0,
            high_water: high_water.max(2),
        }
    }

    /// The partition is this consumer's from now on.
    pub fn assigned(&mut self, place: Partition) -> Generation {
        self.generations += 1;
        let assigned = Assigned {
            generation: self.generations,
            pending: VecDeque::new(),
            next: None,
            committed: None,
            is_paused: false,
        };
        self.partitions.insert(place, assigned);
        self.generations
    }

    /// It is not any more.
    pub fn revoked(&mut self, place: &Partition) {
        self.partitions.remove(place);
    }

    /// The generation that the partition has now.
    pub fn generation(&self, place: &Partition) -> Option<Generation> {
        self.partitions.get(place).map(|a| a.generation)
    }

    /// The partitions that this consumer has.
    pub fn places(&self) -> impl Iterator<Item = &Partition> {
        self.partitions.keys()
    }

    /// A message has come; in which generation it is handled. `None`: the partition is not this consumer's.
    pub fn delivered(&mut self, place: &Partition, offset: i64) -> Option<Generation> {
        let assigned = self.partitions.get_mut(place)?;
        let is_done = false;
        assigned.pending.push_back(Pending { offset, is_done });
        Some(assigned.generation)
    }

    /// A message is done: its record is stored, or it was put aside. `false`: its generation is over, so it is not
    /// this consumer's to say.
    pub fn done(&mut self, place: &Partition, generation: Generation, offset: i64) -> bool {
        let Some(assigned) = self.partitions.get_mut(place) else {
            return false;
        };
        if assigned.generation != generation {
            return false;
        }
        let mut pending = assigned.pending.iter_mut();
        if let Some(pending) = pending.find(|p| p.offset == offset && !p.is_done) {
            pending.is_done = true;
        }
        while let Some(first) = assigned.pending.front().filter(|p| p.is_done) {
            assigned.next = Some(first.offset.saturating_add(1));
            assigned.pending.pop_front();
        }
        true
    }

    /// What is to be committed, of all partitions or of these.
    pub fn to_commit(&self, of: Option<&[Partition]>) -> Vec<Commit> {
        let wanted = |place: &&Partition| of.is_none_or(|of| of.contains(place));
        let assigned = self.partitions.iter().filter(|(place, _)| wanted(place));
        let commits = assigned.filter_map(|(place, assigned)| {
            let next = assigned
                .next
                .filter(|_| assigned.next != assigned.committed)?;
            Some(Commit {
                place: place.clone(),
                generation: assigned.generation,
                next,
            })
        });
        commits.collect()
    }

    /// The commit has succeeded.
    pub fn committed(&mut self, commit: &Commit) {
        if let Some(assigned) = self.partitions.get_mut(&commit.place) {
            if assigned.generation == commit.generation {
                assigned.committed = Some(commit.next);
            }
        }
    }

    /// The next offset to be done, if it is known.
    pub fn position(&self, place: &Partition) -> Option<i64> {
        let assigned = self.partitions.get(place)?;
        let first = assigned.pending.front().map(|p| p.offset);
        first.or(assigned.next)
    }

    /// Messages that were delivered and are not done.
    pub fn pending(&self) -> usize {
        self.partitions.values().map(|a| a.pending.len()).sum()
    }

    /// Which partitions are to be paused or resumed now. Each is told once.
    pub fn flow(&mut self) -> Vec<(Partition, Flow)> {
        let mut changes = Vec::new();
        for (place, assigned) in &mut self.partitions {
            let waiting = assigned.pending.len();
            if !assigned.is_paused && waiting >= self.high_water {
                assigned.is_paused = true;
                changes.push((place.clone(), Flow::Pause));
            } else if assigned.is_paused && waiting <= self.high_water / 2 {
                assigned.is_paused = false;
                changes.push((place.clone(), Flow::Resume));
            }
        }
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(partition: i32) -> Partition {
        Partition {
            topic: "t".into(),
            partition,
        }
    }

    /// What may be committed of partition 0.
    fn next(ledger: &Ledger) -> Option<i64> {
        let commits = ledger.to_commit(Some(&[place(0)]));
        commits.first().map(|commit| commit.next)
    }

    /// One event, and what may be committed after it.
    enum Event {
        Delivered(i64),
        Done(i64),
        /// Of the generation before.
        LateDone(i64),
        Committed,
        Revoked,
        Assigned,
    }
    use Event::*;

    fn walk(name: &str, events: &[(Event, Option<i64>)]) {
        let mut ledger = Ledger::new(100);
        let mut generation = ledger.assigned(place(0));
        let mut before = generation;
        for (at, (event, expected)) in events.iter().enumerate() {
            match event {
                Delivered(offset) => {
                    ledger.delivered(&place(0), *offset);
                }
                Done(offset) => assert!(ledger.done(&place(0), generation, *offset)),
                LateDone(offset) => assert!(!ledger.done(&place(0), before, *offset)),
                Committed => {
                    for commit in ledger.to_commit(None) {
                        ledger.committed(&commit);
                    }
                }
                Revoked => ledger.revoked(&place(0)),
                Assigned => {
                    before = generation;
                    generation = ledger.assigned(place(0));
                }
            }
            assert_eq!(next(&ledger), *expected, "{name}, event {at}");
        }
    }

    #[test]
    fn what_may_be_committed() {
        walk(
            "in order",
            &[
                (Delivered(4), None),
                (Done(4), Some(5)),
                (Delivered(5), Some(5)),
                (Delivered(6), Some(5)),
                (Done(5), Some(6)),
                (Done(6), Some(7)),
            ],
        );
        walk(
            "never past a gap",
            &[
                (Delivered(4), None),
                (Delivered(5), None),
                (Delivered(6), None),
                (Done(5), None),
                (Done(6), None),
                (Done(4), Some(7)),
            ],
        );
        walk(
            "offsets that a compacted topic or a transaction leaves out are no gap",
            &[
                (Delivered(4), None),
                (Delivered(9), None),
                (Done(4), Some(5)),
                (Done(9), Some(10)),
            ],
        );
        walk(
            "what is committed is not committed again",
            &[
                (Delivered(4), None),
                (Done(4), Some(5)),
                (Committed, None),
                (Delivered(5), None),
                (Done(5), Some(6)),
                (Committed, None),
            ],
        );
        walk(
            "a revoked partition is committed by nobody here",
            &[
                (Delivered(4), None),
                (Delivered(5), None),
                (Done(4), Some(5)),
                (Revoked, None),
            ],
        );
        walk(
            "an old generation says nothing about the new one",
            &[
                (Delivered(4), None),
                (Revoked, None),
                (Assigned, None),
                (LateDone(4), None),
                (Delivered(4), None),
                (LateDone(4), None),
                (Done(4), Some(5)),
            ],
        );
        walk(
            "an assignment without a revocation before it is a new generation, too",
            &[
                (Delivered(4), None),
                (Done(4), Some(5)),
                (Assigned, None),
                (LateDone(4), None),
            ],
        );
        walk(
            "told twice is told once",
            &[
                (Delivered(4), None),
                (Delivered(5), None),
                (Done(4), Some(5)),
                (Done(4), Some(5)),
                (Done(5), Some(6)),
            ],
        );
        walk(
            "a partition that starts anew from an earlier offset",
            &[
                (Delivered(9), None),
                (Done(9), Some(10)),
                (Committed, None),
                (Delivered(3), None),
                (Done(3), Some(4)),
            ],
        );
    }

    #[test]
    fn partitions_have_nothing_to_do_with_each_other() {
        let mut ledger = Ledger::new(100);
        let generations: Vec<_> = (0..2).map(|p| ledger.assigned(place(p))).collect();
        for partition in 0..2 {
            ledger.delivered(&place(partition), 7);
        }
        assert!(ledger.done(&place(1), generations[1], 7));
        let commits = ledger.to_commit(None);
        assert_eq!(commits.len(), 1);
        assert_eq!((&commits[0].place, commits[0].next), (&place(1), 8));
        assert_eq!(ledger.pending(), 1);
        assert_eq!(ledger.position(&place(0)), Some(7));
        assert_eq!(ledger.position(&place(1)), Some(8));
        assert_eq!(ledger.delivered(&place(2), 1), None, "not assigned");
    }

    #[test]
    fn a_commit_of_an_old_generation_is_not_noted() {
        let mut ledger = Ledger::new(100);
        let old = ledger.assigned(place(0));
        ledger.delivered(&place(0), 1);
        assert!(ledger.done(&place(0), old, 1));
        let commit = ledger.to_commit(None).remove(0);
        let new = ledger.assigned(place(0));
        ledger.delivered(&place(0), 1);
        assert!(ledger.done(&place(0), new, 1));
        ledger.committed(&commit);
        assert_eq!(next(&ledger), Some(2));
    }

    #[test]
    fn a_full_partition_is_paused_once_and_resumed_once_at_half() {
        let mut ledger = Ledger::new(4);
        let generation = ledger.assigned(place(0));
        ledger.assigned(place(1));
        let mut told = Vec::new();
        for offset in 0..6 {
            ledger.delivered(&place(0), offset);
            told.extend(ledger.flow());
        }
        assert_eq!(told, [(place(0), Flow::Pause)]);
        told.clear();
        for offset in 0..6 {
            assert!(ledger.done(&place(0), generation, offset));
            for change in ledger.flow() {
                assert_eq!(ledger.pending(), 2);
                told.push(change);
            }
        }
        assert_eq!(told, [(place(0), Flow::Resume)]);
    }

    #[test]
    fn a_new_assignment_is_not_paused() {
        let mut ledger = Ledger::new(2);
        ledger.assigned(place(0));
        for offset in 0..2 {
            ledger.delivered(&place(0), offset);
        }
        assert_eq!(ledger.flow(), [(place(0), Flow::Pause)]);
        ledger.assigned(place(0));
        assert_eq!(ledger.flow(), []);
    }
}
