//! The filter's own clock. All that a host tells is the time of day, and that can be set, forwards and
//! backwards, while executions run.
//!
//! Two counts of the time that has passed come of it. Neither goes back, and they differ only where the
//! time of day made a step that nobody can explain from here: it was set, or the whole gateway stood still.
//!
//! | what was seen | [`Moment::most_ns`] | [`Moment::least_ns`] |
//! |---|---|---|
//! | time goes on | goes on | goes on |
//! | a step forwards, longer than [`LONGEST_STEP_NS`] | goes on by all of it | goes on by that much |
//! | a step backwards | stands still | stands still |
//!
//! A lease is renewed by the most that can have passed, since a renewal that comes too early does no harm.
//! What is given up after a time, or must not come too often, goes by the least: a clock that somebody
//! sets an hour forwards gives up nothing, and when it is set back, nothing stands still for an hour.

use crate::host::Host;
use std::cell::Cell;

/// The longest step that is taken for time that has passed, in nanoseconds. The root's tick looks at the
/// clock every 50 ms or more often ([`crate::profile::Profile::tick_ms`]).
pub const LONGEST_STEP_NS: u64 = 250_000_000;

/// One look at the clock. Its numbers mean something only beside those of another look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// How much time has passed at least since the first look, in nanoseconds.
    pub least_ns: u64,
    /// How much time has passed at most, in nanoseconds. (A gateway that stood still while its clock was
    /// set back cannot know.)
    pub most_ns: u64,
    /// How often the time of day was seen to go back.
    set_back: u32,
}

impl Moment {
    /// How long ago `then` was, by the time of day, in nanoseconds; `None`: it was set back since, so
    /// nobody knows.
    pub fn since(&self, then: &Moment) -> Option<u64> {
        let same = self.set_back == then.set_back;
        same.then(|| self.most_ns.saturating_sub(then.most_ns))
    }
}

/// Makes a clock that does not go back out of one that can be set.
#[derive(Clone, Copy, Debug, Default)]
pub struct SteadyClock {
    /// The time of day at the last look; `None`: there was none.
    wall_ns: Option<u64>,
    now: Moment,
}

impl SteadyClock {
    /// The time of day is `wall_ns` now.
    pub fn look(&mut self, wall_ns: u64) -> Moment {
        let before = self.wall_ns.replace(wall_ns).unwrap_or(wall_ns);
        match wall_ns.checked_sub(before) {
            Some(step) => {
                let now = &mut self.now;
                now.most_ns = now.most_ns.saturating_add(step);
                now.least_ns = now.least_ns.saturating_add(step.min(LONGEST_STEP_NS));
            }
            None => self.now.set_back = self.now.set_back.wrapping_add(1),
        }
        self.now
    }
}

/// The clock of a VM, looked at once in a callback at most, and only if somebody asks.
#[derive(Debug, Default)]
pub struct Clock {
    steady: Cell<SteadyClock>,
    read: Cell<Option<Moment>>,
}

impl Clock {
    /// A callback of the host begins.
    pub fn begin(&self) {
        self.read.set(None);
    }

    /// The last look, without another one: when it was, it is later by now.
    pub fn last(&self) -> Option<Moment> {
        let steady = self.steady.get();
        steady.wall_ns.map(|_| steady.now)
    }

    /// The time; the same one for all of a callback.
    pub fn now<H: Host>(&self, host: &H) -> Moment {
        self.read.get().unwrap_or_else(|| {
            let mut steady = self.steady.get();
            let now = steady.look(host.now_ns());
            self.steady.set(steady);
            self.read.set(Some(now));
            now
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;
    const HOUR: u64 = 3_600_000 * MS;
    const START: u64 = 1_700_000_000_000 * MS;

    fn looked(clock: &mut SteadyClock, wall_ns: u64) -> (u64, u64) {
        let now = clock.look(wall_ns);
        (now.least_ns, now.most_ns)
    }

    #[test]
    fn time_that_goes_on_is_counted_as_it_is() {
        let mut clock = SteadyClock::default();
        assert_eq!(looked(&mut clock, START), (0, 0));
        assert_eq!(looked(&mut clock, START), (0, 0));
        assert_eq!(looked(&mut clock, START + 7), (7, 7));
        assert_eq!(looked(&mut clock, START + 50 * MS), (50 * MS, 50 * MS));
    }

    #[test]
    fn a_clock_that_is_set_back_goes_on_from_where_it_was() {
        let mut clock = SteadyClock::default();
        clock.look(START);
        clock.look(START + 10 * MS);
        let back = START - HOUR;
        assert_eq!(looked(&mut clock, back), (10 * MS, 10 * MS));
        assert_eq!(looked(&mut clock, back + 5 * MS), (15 * MS, 15 * MS));
        // Once more, without a look in between.
        assert_eq!(looked(&mut clock, back - HOUR), (15 * MS, 15 * MS));
        assert_eq!(looked(&mut clock, back - HOUR + MS), (16 * MS, 16 * MS));
    }

    #[test]
    fn a_step_forwards_may_be_all_time_or_none() {
        let mut clock = SteadyClock::default();
        clock.look(START);
        assert_eq!(looked(&mut clock, START + HOUR), (LONGEST_STEP_NS, HOUR));
        // Set forwards by mistake, and back again: no hour of standing still.
        assert_eq!(looked(&mut clock, START + MS), (LONGEST_STEP_NS, HOUR));
        let (least, most) = looked(&mut clock, START + 3 * MS);
        assert_eq!(least, LONGEST_STEP_NS + 2 * MS);
        assert_eq!(most, HOUR + 2 * MS);
    }

    #[test]
    fn between_two_looks_with_a_step_back_nobody_knows_how_long_it_was() {
        let mut clock = SteadyClock::default();
        let first = clock.look(START);
        let second = clock.look(START + HOUR);
        assert_eq!(second.since(&first), Some(HOUR));
        // The time of day is later than at first, all the same.
        let third = clock.look(START + HOUR - MS);
        assert_eq!(third.since(&first), None);
        assert_eq!(third.since(&second), None);
        let fourth = clock.look(START + HOUR);
        assert_eq!(fourth.since(&third), Some(MS));
        assert_eq!(fourth.since(&first), None);
    }

    #[test]
    fn the_ends_of_numbers_are_no_trap() {
        let mut clock = SteadyClock::default();
        for wall in [0, u64::MAX, 0, u64::MAX, 1, u64::MAX] {
            clock.look(wall);
        }
        assert_eq!(clock.look(u64::MAX).most_ns, u64::MAX);
    }
}
