//! One node of the guard.

use super::tally::Vote;
use crate::redis::call::ScriptCall;
use crate::redis::caller::ScriptCaller;
use crate::redis::connect::RedisConnector;
use crate::redis::errors::store_error;
use crate::redis::health;
use crate::redis::options::{Address, RedisOptions, Topology};
use crate::redis::script::Scripts;
use crate::store::StoreError;
use redis::Value;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::Duration;

pub(super) struct RedlockNode {
    caller: ScriptCaller,
    connector: Arc<RedisConnector>,
    /// The last look found that it may forget locks.
    distrusted: AtomicBool,
}

impl RedlockNode {
    pub fn new(options: RedisOptions) -> Result<RedlockNode, StoreError> {
        let connector = RedisConnector::new(options).map_err(StoreError::Permanent)?;
        let connector = Arc::new(connector);
        Ok(RedlockNode {
            caller: ScriptCaller::new(&connector, Scripts::lock()),
            connector,
            distrusted: AtomicBool::new(false),
        })
    }

    /// Where it is, for messages.
    pub fn place(&self) -> String {
        match &self.connector.options().topology {
            Topology::Single(Address::Tcp(host, port)) => format!("{host}:{port}"),
            Topology::Single(Address::Unix(path)) => path.display().to_string(),
            other => format!("{other:?}"),
        }
    }

    /// What it says to a take, if it can be trusted with a lock: one that evicts may give the same
    /// lock to the next one. Until it is looked at for the first time it is trusted: its vote is one
    /// of several.
    pub async fn ask_if_trusted(&self, call: &ScriptCall) -> Vote {
        if self.distrusted.load(Ordering::Acquire) {
            return Vote::Failed(format!("{}: it may forget locks", self.place()));
        }
        self.ask(call).await
    }

    /// What it says to an event; why it cannot.
    pub async fn ask(&self, call: &ScriptCall) -> Vote {
        match self.caller.one(call.clone(), false).await {
            Ok(Value::Int(1)) => Vote::Yes,
            Ok(Value::Int(0)) => Vote::Released,
            Ok(Value::Int(left @ ..0)) => Vote::Held(Duration::from_millis(left.unsigned_abs())),
            Ok(_) => Vote::Failed(format!("{}: not an answer", self.place())),
            Err(error) => Vote::Failed(format!("{}: {}", self.place(), store_error(&error))),
        }
    }

    /// Its run id, if it can be trusted with a lock.
    pub async fn look_after(&self) -> Result<String, StoreError> {
        match self.probe().await {
            // The connection may have been cut long ago; a new one tells more.
            Err(StoreError::Transient(_)) => self.probe().await,
            other => other,
        }
    }

    async fn probe(&self) -> Result<String, StoreError> {
        let side = self.caller.side();
        let (number, connection) = side.get().await.map_err(|e| store_error(&e))?;
        match health::probe(connection, self.connector.options()).await {
            Ok(health) => {
                self.caller.heal();
                let distrusted = health.distrust.is_some();
                self.distrusted.store(distrusted, Ordering::Release);
                let health = health.trusted()?;
                Ok(health.run_ids.into_iter().next().unwrap_or_default())
            }
            Err(error) => {
                side.broken(number);
                Err(error)
            }
        }
    }

    pub fn close(&self) {
        self.caller.close();
    }

    pub fn is_closed(&self) -> bool {
        self.caller.is_closed()
    }
}
