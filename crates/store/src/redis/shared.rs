//! What every instance of the store and its background task share.

use super::caller::ScriptCaller;
use super::connect::RedisConnector;
use super::errors::store_error;
use super::gate::Gate;
use super::health::{self, Health};
use super::names::Names;
use super::redlock::Redlock;
use super::script::Scripts;
use crate::machine::Room;
use crate::store::StoreError;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::Arc;
use std::time::Duration;

/// How often the servers are asked how full they are.
const HEALTH_INTERVAL: Duration = Duration::from_secs(1);

/// What the background task needs too.
pub(super) struct Shared {
    pub connector: Arc<RedisConnector>,
    pub caller: ScriptCaller,
    pub names: Names,
    pub gate: Gate,
    pub closed: AtomicBool,
    room: AtomicU8,
    /// The last look found no servers.
    away: AtomicBool,
}

impl Shared {
    pub fn new(connector: Arc<RedisConnector>, scripts: Scripts, names: Names) -> Shared {
        Shared {
            caller: ScriptCaller::new(&connector, scripts),
            connector,
            names,
            gate: Gate::new(),
            closed: AtomicBool::new(false),
            room: AtomicU8::new(0),
            away: AtomicBool::new(false),
        }
    }

    pub fn room(&self) -> Room {
        match self.room.load(Ordering::Relaxed) {
            0 => Room::Plenty,
            1 => Room::NoGrants,
            _ => Room::FactsOnly,
        }
    }

    /// Asks all masters how they are.
    pub async fn look_after(&self) -> Result<Health, StoreError> {
        let health = match self.probe().await {
            // The connection may have been cut long ago; a new one tells more.
            Err(StoreError::Transient(_)) => self.probe().await?,
            other => other?,
        };
        if self.away.swap(false, Ordering::AcqRel) {
            // A connection that was not used meanwhile may lead to the former master, which does
            // not know yet that it has been replaced.
            self.caller.reconnect();
        }
        self.caller.heal();
        let room = match health.room {
            Room::Plenty => 0,
            Room::NoGrants => 1,
            Room::FactsOnly => 2,
        };
        self.room.store(room, Ordering::Relaxed);
        self.gate.set(health.distrust.as_ref());
        Ok(health)
    }

    async fn probe(&self) -> Result<Health, StoreError> {
        let side = self.caller.side();
        let (number, connection) = side.get().await.map_err(|e| store_error(&e))?;
        let health = health::probe(connection, self.connector.options()).await;
        if health.is_err() {
            self.away.store(true, Ordering::Release);
            side.broken(number);
        }
        health
    }
}

pub(super) async fn watch(shared: Arc<Shared>, guard: Option<Arc<Redlock>>) {
    while !shared.closed.load(Ordering::Acquire) {
        tokio::time::sleep(HEALTH_INTERVAL).await;
        let _ = shared.look_after().await;
        if let Some(guard) = &guard {
            // What it finds stays with the nodes. Whether they are independent of the main Redis is
            // asked by `ready`.
            let _ = guard.look_after(&[], false).await;
        }
    }
}
