//! Which version of the wire protocol a service understands.
//!
//! A client (a gateway, or a program with the library) begins with the newest version. A service of an earlier release refuses a message of it with
//! status 400, before it applies any of its operations; then the same operations go out once more in the
//! version before, and so does all that follows for a while. Services of both releases may stand behind one
//! target while they are replaced, so the newest version is tried again after that.

use crate::frame::Wire;

/// How long a service is taken to be of an earlier release, in nanoseconds: one minute, so that a rollout
/// costs one call in a minute, and its end is noticed soon.
pub const OLDER_FOR_NS: u64 = 60_000_000_000;

/// What is known of the service.
#[derive(Clone, Copy, Debug, Default)]
pub struct Dialect {
    older_until_ns: Option<u64>,
}

impl Dialect {
    /// The version to speak now. `now_ns`: any clock that does not go back.
    pub fn wire(&self, now_ns: u64) -> Wire {
        match self.older_until_ns {
            Some(until) if now_ns < until => Wire::One,
            _ => Wire::Two,
        }
    }

    /// [`Dialect::wire`], for whom it costs something to look at the clock: it matters only after a refusal.
    pub fn wire_at(&self, now_ns: impl FnOnce() -> u64) -> Wire {
        match self.older_until_ns {
            Some(_) => self.wire(now_ns()),
            None => Wire::Two,
        }
    }

    /// A message of the newest version was refused.
    pub fn refused(&mut self, now_ns: u64) {
        self.older_until_ns = Some(now_ns.saturating_add(OLDER_FOR_NS));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_is_tried_again_after_a_while() {
        let mut dialect = Dialect::default();
        assert_eq!(dialect.wire(0), Wire::Two);
        assert_eq!(
            dialect.wire_at(|| unreachable!("nobody refused anything")),
            Wire::Two
        );
        dialect.refused(5);
        assert_eq!(dialect.wire_at(|| 5), Wire::One);
        assert_eq!(dialect.wire(5), Wire::One);
        assert_eq!(dialect.wire(5 + OLDER_FOR_NS - 1), Wire::One);
        assert_eq!(dialect.wire(5 + OLDER_FOR_NS), Wire::Two);
    }
}
