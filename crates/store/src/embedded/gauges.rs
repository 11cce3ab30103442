//! What readiness and metrics are told without asking the applier.

use super::engine::Head;
use crate::machine::Room;
use crate::store::Usage;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

#[derive(Default)]
pub(super) struct Gauges {
    records: AtomicU64,
    bytes: AtomicU64,
    above_high_water: AtomicBool,
}

impl Gauges {
    pub fn set(&self, head: &Head, room: Room) {
        self.records.store(head.records, Ordering::Relaxed);
        self.bytes.store(head.bytes, Ordering::Relaxed);
        self.above_high_water
            .store(room != Room::Plenty, Ordering::Relaxed);
    }

    pub fn usage(&self) -> Usage {
        Usage {
            records: Some(self.records.load(Ordering::Relaxed)),
            bytes: Some(self.bytes.load(Ordering::Relaxed)),
            above_high_water: self.above_high_water.load(Ordering::Relaxed),
        }
    }
}
