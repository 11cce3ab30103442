//! One server for all tests, each with a database of its own.

use idempotency::postgres::Transacted;
use idempotency::store::{Postgres, PostgresOptions};
use idempotency::{Fingerprint, Guard, Outcome};
pub use idempotency_stack::Postgres as Server;
use std::sync::Arc;
use std::time::Duration;
use tokio_postgres::{Client, NoTls};

pub struct Database {
    pub server: Arc<Server>,
    pub name: String,
    pub url: String,
}

impl Database {
    /// With the store's schema, and a table for effects.
    pub async fn new() -> Database {
        Database::on(Server::shared().unwrap()).await
    }

    pub async fn on(server: Arc<Server>) -> Database {
        let url = server.fresh_database();
        let name = url.rsplit('/').next().unwrap().to_owned();
        let database = Database { server, name, url };
        Postgres::migrate(&database.options()).await.unwrap();
        let table = "CREATE TABLE public.orders (name text)";
        database.client().await.batch_execute(table).await.unwrap();
        database
    }

    pub fn options(&self) -> PostgresOptions {
        options(&self.url)
    }

    pub async fn store(&self) -> Arc<Postgres> {
        Arc::new(Postgres::open(self.options()).await.unwrap())
    }

    /// A guard with a store of its own, as a process has; a short lease, for tests of what follows a crash.
    pub async fn guard(&self) -> Guard {
        Guard::new(self.store().await)
    }

    pub async fn client(&self) -> Client {
        connect(&self.url).await
    }

    pub async fn orders(&self, name: &str) -> i64 {
        let count = "SELECT count(*) FROM public.orders WHERE name = $1";
        let client = self.client().await;
        client.query_one(count, &[&name]).await.unwrap().get(0)
    }
}

pub fn options(url: &str) -> PostgresOptions {
    let mut options = PostgresOptions::from_url_and(url, |_| None).unwrap();
    options.pool_size = 4;
    options
}

pub async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

pub fn payload() -> Fingerprint {
    Fingerprint::raw("payload")
}

pub fn outcome(text: &str) -> Outcome {
    Outcome::json(201, text).unwrap()
}

/// The effect.
pub async fn order(tx: &impl tokio_postgres::GenericClient, name: &str) {
    let insert = "INSERT INTO public.orders VALUES ($1)";
    tx.execute(insert, &[&name]).await.unwrap();
}

/// Orders `name` once, as soon as nobody else is at it: what came out.
pub async fn ordered(guard: &Guard, client: &mut Client, name: &str) -> Transacted {
    loop {
        let work = async |tx: &mut tokio_postgres::Transaction<'_>, _: &_| {
            order(tx, name).await;
            Ok::<_, String>(outcome(name))
        };
        match guard.transaction(client, name, payload(), work).await {
            Ok(Transacted::InFlight(other)) => {
                other.ended(Duration::from_secs(1)).await;
            }
            result => return result.unwrap(),
        }
    }
}

pub fn committed(transacted: Transacted) -> idempotency::Done {
    match transacted {
        Transacted::Committed(done) => done,
        other => panic!("{other:?}"),
    }
}

pub fn replayed(transacted: Transacted) -> idempotency::Done {
    match transacted {
        Transacted::Replay(done) => done,
        other => panic!("{other:?}"),
    }
}
