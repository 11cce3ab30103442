//! The store that forgets everything.

use super::{BadSetting, Kind, StoreChoice, Written};
use crate::config::{Limits, Settings};
use idempotency_store::clock::SystemClock;
use idempotency_store::{Memory, Store};
use std::sync::Arc;

pub(super) const KIND: Kind = Kind {
    name: "memory",
    is: |scheme| scheme == "memory",
    settings: &[],
    nothing_to: |_| "the memory store",
    choose,
};

fn choose(written: &Written<'_>, _: &Settings) -> Result<StoreChoice, BadSetting> {
    if written.rest.is_empty() {
        return Ok(StoreChoice::Memory);
    }
    let message = "the memory store is in no place: write `memory`";
    Err(("store".into(), message.into()))
}

pub(super) fn open(limits: &Limits) -> Arc<dyn Store> {
    tracing::warn!("MEMORY STORE: every record is lost when the process ends");
    let clock = Arc::new(SystemClock::starting_after(0));
    Arc::new(Memory::with_caps(clock, limits.waiters))
}
