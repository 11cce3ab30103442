//! One connection that hears of changes made by other processes, and wakes who waits here.

use super::ids::short_key;
use super::options::PostgresOptions;
use crate::waiters::Waiters;
use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::unbounded_channel;
use tokio_postgres::AsyncMessage;
use tokio_postgres_rustls::MakeRustlsConnect;

/// Listens until the task is aborted; connects again when the connection is lost.
pub(super) async fn run(options: PostgresOptions, tls: MakeRustlsConnect, waiters: Arc<Waiters>) {
    let shortest = Duration::from_millis(50);
    let mut pause = shortest;
    loop {
        if session(&options, tls.clone(), &waiters).await.is_ok() {
            pause = shortest;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(2));
    }
}

/// One connection, until it is lost. An error: it never listened.
async fn session(
    options: &PostgresOptions,
    tls: MakeRustlsConnect,
    waiters: &Waiters,
) -> Result<(), tokio_postgres::Error> {
    let (client, mut connection) = options.config.connect(tls).await?;
    let (sender, mut heard) = unbounded_channel();
    let driver = tokio::spawn(async move {
        while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
            if let AsyncMessage::Notification(notification) = message {
                if sender.send(notification).is_err() {
                    break;
                }
            }
        }
    });
    // Dropped with this future, so that an aborted listener leaves no connection behind.
    let _driver = Abort(driver);
    client.batch_execute("LISTEN idempotency_changed").await?;
    // What happened while nobody listened was not heard.
    waiters.wake_all();
    while let Some(notification) = heard.recv().await {
        let id = hex::decode(notification.payload()).unwrap_or_default();
        match short_key(&id) {
            Some(key) => waiters.wake(&key),
            None => waiters.wake_all(),
        }
    }
    Ok(())
}

/// Ends a task when dropped.
pub(super) struct Abort(pub tokio::task::JoinHandle<()>);

impl Drop for Abort {
    fn drop(&mut self) {
        self.0.abort();
    }
}
