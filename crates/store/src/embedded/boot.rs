//! The start of the store that is running now.

use super::engine::Head;
use crate::clock::Micros;
use crate::machine::{Context, Room};

/// What every decision of this start has in common. There is one for the applier and for
/// listing: a lease that was given in an earlier start ends at the same time for both.
#[derive(Clone, Copy, Debug)]
pub(super) struct Boot {
    number: u64,
    started: Micros,
}

impl Boot {
    /// The start that `head` was written at.
    pub fn of(head: &Head) -> Boot {
        Boot {
            number: head.boot,
            started: head.last_seen,
        }
    }

    /// For a decision that is made now.
    pub fn context(&self, now: Micros, room: Room) -> Context {
        Context {
            boot: self.number,
            boot_started: self.started,
            room,
            ..Context::at(now)
        }
    }
}
