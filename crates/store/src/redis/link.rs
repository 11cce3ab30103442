//! One shared connection that is opened when it is needed, and again when it broke.

use super::connect::{Purpose, RedisConnector, SharedConnection};
use redis::{RedisError, RedisResult};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

/// After a failed attempt, how long its error is the answer: a server that is down is not asked
/// by every caller anew.
const PAUSE: Duration = Duration::from_millis(50);

/// A connection with the number that tells it from its predecessors.
pub(super) type Numbered = (u64, SharedConnection);

pub(super) struct Link {
    connector: Arc<RedisConnector>,
    purpose: Purpose,
    current: RwLock<Option<Numbered>>,
    opening: Mutex<Opening>,
}

#[derive(Default)]
struct Opening {
    count: u64,
    failed: Option<(Instant, RedisError)>,
}

impl Link {
    pub fn new(connector: Arc<RedisConnector>, purpose: Purpose) -> Link {
        Link {
            connector,
            purpose,
            current: RwLock::new(None),
            opening: Mutex::default(),
        }
    }

    fn current(&self) -> Option<Numbered> {
        let current = self.current.read();
        current.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The connection; opens it if there is none.
    pub async fn get(&self) -> RedisResult<Numbered> {
        if let Some(current) = self.current() {
            return Ok(current);
        }
        // One opens, the others wait for the result.
        let mut opening = self.opening.lock().await;
        if let Some(current) = self.current() {
            return Ok(current);
        }
        match &opening.failed {
            Some((at, error)) if at.elapsed() < PAUSE => return Err(error.clone()),
            _ => opening.failed = None,
        }
        match self.connector.open(&self.purpose).await {
            Ok(connection) => {
                opening.count += 1;
                let numbered = (opening.count, connection);
                self.set(Some(numbered.clone()));
                Ok(numbered)
            }
            Err(error) => {
                opening.failed = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }

    /// Forgets that the last attempt failed.
    pub fn heal(&self) {
        // If the lock is taken, a task is opening a connection now, and will find out by itself.
        if let Ok(mut opening) = self.opening.try_lock() {
            opening.failed = None;
        }
    }

    /// The connection of that number is no good any more.
    pub fn broken(&self, number: u64) {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().is_some_and(|(n, _)| *n == number) {
            *current = None;
        }
    }

    /// The connection, if there is one, is not given out any more.
    pub fn renew(&self) {
        self.set(None);
    }

    /// Whether the connection of that number is still in use.
    pub fn is_current(&self, number: u64) -> bool {
        self.current().is_some_and(|(n, _)| n == number)
    }

    fn set(&self, connection: Option<Numbered>) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = connection;
    }
}
