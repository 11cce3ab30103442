//! A database whose clock moves only when told to.

use crate::server::Database;
use idempotency_store::clock::ManualClock;
use idempotency_store::Postgres;
use std::sync::Arc;
use std::time::Duration;
use tokio_postgres::Client;

pub struct Clock {
    client: Client,
    /// The same time for a model in this process.
    pub model: Arc<ManualClock>,
}

impl Clock {
    /// Puts a table in the place of the server's clock.
    pub async fn install(database: &Database, start: u64) -> Clock {
        let client = database.client().await;
        client
            .batch_execute(&format!(
                "CREATE TABLE test_clock AS
                     SELECT timestamptz 'epoch' + {start} * interval '1 us' AS now;
                 CREATE OR REPLACE FUNCTION idempotency_now() RETURNS timestamptz
                     LANGUAGE sql VOLATILE AS 'SELECT now FROM test_clock'"
            ))
            .await
            .unwrap();
        let model = Arc::new(ManualClock::at(start));
        Clock { client, model }
    }

    pub async fn advance(&self, by: Duration) {
        let micros = i64::try_from(by.as_micros()).unwrap();
        let update = "UPDATE test_clock SET now = now + $1::bigint * interval '1 us'";
        self.client.execute(update, &[&micros]).await.unwrap();
        self.model.advance(by);
    }

    /// Sets the database's clock back, as an administrator or a failover may do.
    pub async fn set_back(&self, seconds: u32) {
        let update = format!("UPDATE test_clock SET now = now - interval '{seconds} s'");
        self.client.batch_execute(&update).await.unwrap();
    }
}

/// Waits until that many waits are registered in this instance.
pub async fn until_waiting(store: &Postgres, count: usize) {
    while store.waiting() < count {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
