//! What handlers do, and how it is noticed that all messages were handled.

use crate::BoxError;
use idempotency_stack::Postgres;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio_postgres::{Client, NoTls, Statement};

/// Longest wait until all messages of a run are handled.
const PATIENCE: Duration = Duration::from_secs(180);

/// What a handler does with a message.
pub enum Work {
    /// Nothing: what a consumer costs on its own, and no consumer does.
    Nothing,
    /// Waits so long, as for another service.
    Wait(Duration),
    /// One insert into a database, committed to its disk; a connection for each partition.
    Commit(Vec<(Client, Statement)>),
}

impl Work {
    /// Inserts into this server's database, which it makes.
    pub async fn commits(server: &Postgres, partitions: usize) -> Result<Work, BoxError> {
        server.create_database("bench");
        let table = "CREATE TABLE IF NOT EXISTS handled (partition int, at bigint, payload bytea)";
        server.sql("bench", table);
        let mut clients = Vec::new();
        for _ in 0..partitions {
            let (client, connection) = tokio_postgres::connect(&server.url("bench"), NoTls).await?;
            tokio::spawn(connection);
            let insert = "INSERT INTO handled VALUES ($1, $2, $3)";
            let insert = client.prepare(insert).await?;
            clients.push((client, insert));
        }
        Ok(Work::Commit(clients))
    }

    pub fn name(&self) -> String {
        match self {
            Work::Nothing => "does nothing".to_owned(),
            Work::Wait(wait) => format!("waits {wait:?}"),
            Work::Commit(_) => "commits a row in PostgreSQL".to_owned(),
        }
    }

    /// Handles one message.
    pub async fn handle(&self, partition: i32, offset: i64, payload: &[u8]) {
        match self {
            Work::Nothing => {}
            Work::Wait(wait) => tokio::time::sleep(*wait).await,
            Work::Commit(clients) => {
                let place = usize::try_from(partition).unwrap_or(0) % clients.len().max(1);
                if let Some((client, insert)) = clients.get(place) {
                    let row = client
                        .execute(insert, &[&partition, &offset, &payload])
                        .await;
                    assert_eq!(row.expect("a row that is inserted"), 1);
                }
            }
        }
    }
}

/// When the first and the last message were handled.
pub struct Watch {
    inner: Mutex<Watched>,
    all: usize,
    done: Notify,
}

#[derive(Default)]
struct Watched {
    handled: usize,
    first: Option<Instant>,
    took: Option<Duration>,
}

impl Watch {
    pub fn new(all: usize) -> Arc<Watch> {
        Arc::new(Watch {
            inner: Mutex::default(),
            all,
            done: Notify::new(),
        })
    }

    /// One more was handled.
    pub fn handled(&self) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let first = *inner.first.get_or_insert_with(Instant::now);
        inner.handled += 1;
        if inner.handled == self.all {
            inner.took = Some(first.elapsed());
            self.done.notify_one();
        }
    }

    /// Waits for the last one; messages per second.
    ///
    /// # Errors
    ///
    /// If it does not come.
    #[allow(clippy::cast_precision_loss)]
    pub async fn rate(&self) -> Result<f64, BoxError> {
        let waited = tokio::time::timeout(PATIENCE, self.done.notified()).await;
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        match (waited, inner.took) {
            (Ok(()), Some(took)) => Ok(self.all as f64 / took.as_secs_f64().max(1e-9)),
            _ => Err(format!("{} of {} messages were handled", inner.handled, self.all).into()),
        }
    }

    /// Every message was handled exactly once.
    ///
    /// # Errors
    ///
    /// If not.
    pub fn check(&self) -> Result<(), BoxError> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.handled == self.all {
            return Ok(());
        }
        Err(format!("{} messages were handled {} times", self.all, inner.handled).into())
    }
}
