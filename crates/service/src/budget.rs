//! One bound on the bytes that all requests and answers hold together.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::Arc;

/// What a request costs beside its body: its state and its headers.
pub(crate) const REQUEST_BYTES: usize = 4 * 1024;
/// What is larger leaves the last part of the budget to smaller ones, so that large bodies cannot
/// keep out the small calls that settle executions.
const LARGE: usize = 16 * 1024;

/// Bytes that may be held at one time. Nothing waits until bytes are free: a request that finds too few is refused.
pub(crate) struct Budget {
    used: AtomicUsize,
    limit: usize,
}

/// A part of a budget; given back on drop.
pub(crate) struct Room {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Budget {
    pub(crate) fn new(limit: usize) -> Arc<Budget> {
        Arc::new(Budget {
            used: AtomicUsize::new(0),
            limit,
        })
    }

    /// What is held now.
    pub(crate) fn used(&self) -> usize {
        self.used.load(Relaxed)
    }

    /// Room for so many bytes, if there is any.
    pub(crate) fn take(self: &Arc<Budget>, bytes: usize) -> Option<Room> {
        let mut room = Room {
            budget: self.clone(),
            bytes: 0,
        };
        room.cover(bytes).then_some(room)
    }

    /// Room for an answer and what its request still holds. The work is done, so a small one may
    /// go an eighth above the limit; a large one may find no room.
    pub(crate) fn take_for_answer(self: &Arc<Budget>, bytes: usize) -> Option<Room> {
        let whole = REQUEST_BYTES.saturating_add(bytes);
        if bytes > LARGE {
            return self.take(whole);
        }
        let limit = self.limit + self.limit / 8;
        let fits = |used: usize| used.checked_add(whole).filter(|sum| *sum <= limit);
        let taken = self.used.fetch_update(Relaxed, Relaxed, fits);
        taken.ok().map(|_| Room {
            budget: self.clone(),
            bytes: whole,
        })
    }
}

impl Room {
    /// Makes it cover `bytes`; false, and no change, if there is no room for that.
    pub(crate) fn cover(&mut self, bytes: usize) -> bool {
        let Some(more) = bytes.checked_sub(self.bytes).filter(|more| *more > 0) else {
            return true;
        };
        let limit = self.budget.limit;
        let limit = if bytes > LARGE {
            limit - limit / 8
        } else {
            limit
        };
        let fits = |used: usize| used.checked_add(more).filter(|sum| *sum <= limit);
        let taken = self.budget.used.fetch_update(Relaxed, Relaxed, fits);
        if taken.is_ok() {
            self.bytes = bytes;
        }
        taken.is_ok()
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_bounded_and_comes_back() {
        let budget = Budget::new(1 << 20);
        let mut large = budget.take(100_000).unwrap();
        assert!(!large.cover(1 << 20), "the last eighth is for small ones");
        assert!(large.cover(910_000));
        assert!(budget.take(LARGE + 1).is_none());
        let small: Vec<_> = std::iter::from_fn(|| budget.take(LARGE)).collect();
        assert_eq!(small.len(), ((1 << 20) - 910_000) / LARGE);
        let answers: Vec<_> = std::iter::from_fn(|| budget.take_for_answer(LARGE)).collect();
        let above = (1 << 20) + (1 << 17) - 910_000 - small.len() * LARGE;
        assert_eq!(answers.len(), above / (LARGE + REQUEST_BYTES));
        assert!(budget.take(LARGE).is_none());
        assert!(budget.take_for_answer(LARGE + 1).is_none());
        drop((large, small, answers));
        assert_eq!(budget.used(), 0);
    }
}
