//! The guard: who may execute, and what becomes of it.
// On purpose: once per store.
#![allow(clippy::duplicate_mod)]

#[path = "../common/mod.rs"]
mod common;

use idempotency::{Entry, Execution, Fingerprint, Guard};
use std::time::Duration;

mod entries;
mod leases;
mod shutdown;
mod troubles;

/// What holds on every store, on this one: tests of one server are run one after the other, and share it.
macro_rules! on_store {
    ($name:ident, $kept:ty, $store:expr) => {
        #[path = "every"]
        mod $name {
            #[path = "crowds.rs"]
            mod crowds;
            #[path = "ends.rs"]
            mod ends;
            #[path = "entries.rs"]
            mod entries;
            #[path = "shutdown.rs"]
            mod shutdown;
            #[path = "troubles.rs"]
            mod troubles;
            /// An empty one, and what has to live as long.
            async fn store() -> (std::sync::Arc<dyn idempotency::store::Store>, $kept) {
                $store
            }
        }
    };
}

on_store!(
    embedded,
    tempfile::TempDir,
    crate::common::servers::embedded()
);
on_store!(memory, (), (crate::common::servers::memory(), ()));
on_store!(
    postgres,
    std::sync::Arc<idempotency_stack::Postgres>,
    crate::common::servers::postgres().await
);
on_store!(
    redis,
    std::sync::Arc<idempotency_stack::Redis>,
    crate::common::servers::redis().await
);

const SOON: Duration = Duration::from_millis(300);
const LONG: Duration = Duration::from_secs(20);

fn payload() -> Fingerprint {
    Fingerprint::raw("payload")
}

async fn execution(guard: &Guard) -> Execution {
    match guard.acquire("k", payload()).await.unwrap() {
        Entry::Execute(execution) => execution,
        other => panic!("{other:?}"),
    }
}

async fn is_unknown(guard: &Guard) -> bool {
    matches!(guard.acquire("k", payload()).await, Ok(Entry::Unknown(_)))
}
