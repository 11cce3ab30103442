//! The streams of a worker that are alive, and which of them carries what: a callout of a worker belongs to a
//! stream, and is cancelled without a word when that stream ends. So a callout rides on a stream that waits for
//! us, where there is one.

use crate::abi::Object;
use idempotency_filter::ids::IdMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

/// A stream that Envoy has not ended.
#[derive(Debug)]
struct Living {
    envoy: Object,
    /// It is held, until we let it go on.
    waits: bool,
    /// We have answered it or cut it off: it ends any moment.
    ends: bool,
    /// Its response has begun.
    responds: bool,
    /// Nothing of it is protected.
    passes: bool,
    /// An answer of ours passes its hooks.
    sends: bool,
    /// The access log has been told of it.
    told: bool,
    /// Cleared by Envoy's word that the stream ends, whoever has the lock.
    alive: Arc<AtomicBool>,
}

/// All of them. No Envoy calls, no clock.
#[derive(Debug, Default)]
pub struct Streams {
    living: IdMap<u32, Living>,
    /// Those that were held, the last one at the end. Some have gone on since.
    held: Vec<u32>,
    last: u32,
}

/// Numbers below are no streams.
const FIRST: u32 = 2;

impl Streams {
    /// A stream begins; its number, which no living stream has.
    pub fn begin(&mut self, envoy: Object, alive: Arc<AtomicBool>) -> u32 {
        loop {
            self.last = self.last.wrapping_add(1).max(FIRST);
            if self.last != u32::MAX && !self.living.contains_key(&self.last) {
                break;
            }
        }
        let stream = Living {
            envoy,
            waits: false,
            ends: false,
            responds: false,
            passes: false,
            sends: false,
            told: false,
            alive,
        };
        self.living.insert(self.last, stream);
        self.last
    }

    /// A stream has ended: Envoy must not be called for it any more.
    pub fn end(&mut self, stream: u32) {
        self.living.remove(&stream);
    }

    /// Envoy's pointer, as long as the stream is alive.
    pub fn envoy(&self, stream: u32) -> Option<Object> {
        let living = self.living.get(&stream)?;
        living.alive.load(Ordering::Relaxed).then_some(living.envoy)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.living.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.living.is_empty()
    }

    /// Those of which something may be protected.
    pub fn protected(&self) -> Vec<u32> {
        let living = self.living.iter();
        let protected = living.filter(|(_, living)| !living.passes);
        protected.map(|(number, _)| *number).collect()
    }

    /// Nothing of it is protected.
    pub fn pass(&mut self, stream: u32) {
        if let Some(living) = self.living.get_mut(&stream) {
            living.passes = true;
        }
    }

    /// An answer of ours passes its hooks from now on.
    pub fn send(&mut self, stream: u32) {
        if let Some(living) = self.living.get_mut(&stream) {
            living.sends = true;
        }
    }

    /// Whether one does.
    pub fn sends(&self, stream: u32) -> bool {
        self.living.get(&stream).is_some_and(|living| living.sends)
    }

    /// The stream is held, or goes on.
    pub fn hold(&mut self, stream: u32, waits: bool) {
        let Some(living) = self.living.get_mut(&stream) else {
            return;
        };
        if waits && !living.waits {
            self.held.push(stream);
            if self.held.len() > 64 + 2 * self.living.len() {
                let living = &self.living;
                self.held
                    .retain(|s| living.get(s).is_some_and(|l| l.waits || *s == stream));
            }
        }
        if let Some(living) = self.living.get_mut(&stream) {
            living.waits = waits;
        }
    }

    /// We end it.
    pub fn finish(&mut self, stream: u32) {
        if let Some(living) = self.living.get_mut(&stream) {
            living.ends = true;
        }
    }

    /// Notes that the access log is told of it; false: it has been.
    pub fn tell(&mut self, stream: u32) -> bool {
        let living = self.living.get_mut(&stream);
        living.is_some_and(|living| !std::mem::replace(&mut living.told, true))
    }

    /// Whether we have answered it or cut it off.
    pub fn ends(&self, stream: u32) -> bool {
        self.living.get(&stream).is_none_or(|living| living.ends)
    }

    /// Its response has begun: it can be cut off, and not answered.
    pub fn respond(&mut self, stream: u32) {
        if let Some(living) = self.living.get_mut(&stream) {
            living.responds = true;
        }
    }

    /// Whether its response has begun.
    pub fn responds(&self, stream: u32) -> bool {
        self.living.get(&stream).is_some_and(|l| l.responds)
    }

    fn can_carry(&self, stream: u32) -> bool {
        self.living.get(&stream).is_some_and(|living| !living.ends)
    }

    /// A stream that waits for us: the last one that was held. It asked last, so its answer comes last.
    pub fn waiting(&mut self) -> Option<u32> {
        while let Some(stream) = self.held.last().copied() {
            match self.living.get(&stream) {
                Some(living) if living.waits && !living.ends => return Some(stream),
                _ => self.held.pop(),
            };
        }
        None
    }

    /// The best stream for a callout: the one whose hook runs, since it asks for itself and waits for the answer;
    /// else one that waits; else any.
    pub fn carrier(&mut self, inside: Option<u32>) -> Option<u32> {
        let inside = inside.filter(|stream| self.can_carry(*stream));
        inside.or_else(|| self.waiting()).or_else(|| self.any())
    }

    /// Any stream that is not about to end.
    pub fn any(&self) -> Option<u32> {
        let mut living = self.living.iter();
        living.find(|(_, living)| !living.ends).map(|(n, _)| *n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn envoy() -> Object {
        Object(std::ptr::null_mut())
    }

    fn begin(streams: &mut Streams) -> u32 {
        streams.begin(envoy(), Arc::new(AtomicBool::new(true)))
    }

    #[test]
    fn numbers_are_not_given_twice_while_they_live() {
        let mut streams = Streams {
            last: u32::MAX - 2,
            ..Streams::default()
        };
        let last = begin(&mut streams);
        assert_eq!(last, u32::MAX - 1);
        assert_eq!(begin(&mut streams), FIRST);
        streams.last = FIRST - 1;
        assert_eq!(begin(&mut streams), FIRST + 1);
        streams.end(FIRST);
        streams.last = FIRST - 1;
        assert_eq!(begin(&mut streams), FIRST);
    }

    #[test]
    fn a_callout_rides_on_a_stream_that_waits() {
        let mut streams = Streams::default();
        let [a, b, c] = [(); 3].map(|()| begin(&mut streams));
        streams.hold(a, true);
        streams.hold(b, true);
        assert_eq!(streams.carrier(None), Some(b));
        assert_eq!(streams.carrier(Some(c)), Some(c));
        streams.hold(b, false);
        assert_eq!(streams.carrier(None), Some(a));
        streams.hold(b, true);
        assert_eq!(streams.carrier(None), Some(b));
        // What we have answered is as good as gone.
        streams.finish(b);
        streams.finish(c);
        assert_eq!(streams.carrier(Some(c)), Some(a));
        assert_eq!(streams.carrier(Some(b)), Some(a));
        streams.end(a);
        assert_eq!(streams.carrier(None), None);
        assert_eq!(streams.envoy(a), None);
    }

    #[test]
    fn one_that_does_not_wait_is_better_than_none() {
        let mut streams = Streams::default();
        let a = begin(&mut streams);
        assert_eq!(streams.waiting(), None);
        assert_eq!(streams.carrier(None), Some(a));
    }

    #[test]
    fn what_was_held_long_ago_is_forgotten() {
        let mut streams = Streams::default();
        let first = begin(&mut streams);
        streams.hold(first, true);
        for _ in 0..10_000 {
            let stream = begin(&mut streams);
            streams.hold(stream, true);
            streams.hold(stream, false);
            streams.end(stream);
        }
        assert!(streams.held.len() < 100, "{}", streams.held.len());
        assert_eq!(streams.carrier(None), Some(first));
    }
}
