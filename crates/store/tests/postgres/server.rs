//! One server for most tests, each with a database of its own.

pub use idempotency_stack::Postgres as Server;
use idempotency_stack::PostgresOptions as ServerOptions;
use idempotency_store::{Postgres, PostgresOptions};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use tokio_postgres::{Client, NoTls};

/// A server of the caller's own.
pub fn own(options: ServerOptions) -> Server {
    match Server::start(options) {
        Ok(server) => server,
        Err(error) => panic!("{error}"),
    }
}

/// The server that most tests share; it ends with the last of them.
pub fn shared() -> Arc<Server> {
    static SHARED: Mutex<Weak<Server>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(server) = shared.upgrade() {
        return server;
    }
    let settings = vec!["max_connections = 400".to_owned()];
    let options = ServerOptions {
        settings,
        // The password is asked of this user only.
        hba: vec!["host all guarded 127.0.0.1/32 scram-sha-256".to_owned()],
        ..ServerOptions::default()
    };
    let server = Arc::new(own(options));
    *shared = Arc::downgrade(&server);
    server
}

/// A database on a server.
pub struct Database {
    pub server: Arc<Server>,
    pub name: String,
}

impl Database {
    /// Without a schema.
    pub fn empty() -> Database {
        Database::on(shared())
    }

    pub fn on(server: Arc<Server>) -> Database {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let name = format!("test{}", NEXT.fetch_add(1, Ordering::Relaxed));
        server.create_database(&name);
        Database { server, name }
    }

    /// With the schema.
    pub async fn new() -> Database {
        let database = Database::empty();
        Postgres::migrate(&database.options()).await.unwrap();
        database
    }

    pub fn url(&self) -> String {
        self.server.url(&self.name)
    }

    pub fn options(&self) -> PostgresOptions {
        let mut options = PostgresOptions::from_url_and(&self.url(), |_| None).unwrap();
        options.pool_size = 8;
        options
    }

    /// One more instance of the service, as far as the database can tell.
    pub async fn open(&self) -> Arc<Postgres> {
        self.open_with(|_| {}).await
    }

    pub async fn open_with(&self, change: impl FnOnce(&mut PostgresOptions)) -> Arc<Postgres> {
        let mut options = self.options();
        change(&mut options);
        Arc::new(Postgres::open(options).await.unwrap())
    }

    /// A connection past the store.
    pub async fn client(&self) -> Client {
        let (client, connection) = tokio_postgres::connect(&self.url(), NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }
}
