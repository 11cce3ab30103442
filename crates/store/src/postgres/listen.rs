//! One connection that hears of changes made by other processes, and wakes the waiters of this process.

use super::connect::PostgresConnector;
use super::error::PostgresFailure;
use super::ids::short_key;
use crate::waiters::Waiters;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::unbounded_channel;
use tokio::time::timeout;

/// How long a server may take to say that it is still there.
const ALIVE: Duration = Duration::from_secs(5);

/// Listens until the task is aborted; connects again when the connection is lost, or when its
/// server is not the primary any more. Nothing tells of the latter, so it looks every `look`.
pub(super) async fn run(connector: Arc<PostgresConnector>, look: Duration, waiters: Arc<Waiters>) {
    let shortest = Duration::from_millis(50);
    let mut pause = shortest;
    loop {
        if session(&connector, look, &waiters).await.is_ok() {
            pause = shortest;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(2));
    }
}

/// One connection, until it is lost. An error: it never listened.
async fn session(
    connector: &PostgresConnector,
    look: Duration,
    waiters: &Waiters,
) -> Result<(), PostgresFailure> {
    let (sender, mut heard) = unbounded_channel();
    let session = connector.connect(Some(sender)).await?;
    let listen = session.client.batch_execute("LISTEN idempotency_changed");
    match timeout(ALIVE, listen).await {
        Ok(listening) => listening?,
        Err(_) => return Err(PostgresFailure::too_slow("PostgreSQL: no answer in time")),
    }
    // What happened while nobody listened was not heard.
    waiters.wake_all();
    loop {
        match timeout(look, heard.recv()).await {
            Ok(Some(notification)) => {
                let id = hex::decode(notification.payload()).unwrap_or_default();
                match short_key(&id) {
                    Some(key) => waiters.wake(&key),
                    None => waiters.wake_all(),
                }
            }
            Ok(None) => return Ok(()),
            Err(_) => {
                let alive = timeout(ALIVE, session.client.simple_query("")).await;
                if !matches!(alive, Ok(Ok(_))) || connector.is_over(&session) {
                    return Ok(());
                }
            }
        }
    }
}

/// Ends a task when dropped.
pub(super) struct Abort(pub tokio::task::JoinHandle<()>);

impl Drop for Abort {
    fn drop(&mut self) {
        self.0.abort();
    }
}
