//! Everything together, for the demo and the test: PostgreSQL, a broker, the service, the consumer.

use crate::{DEAD_LETTERS, TOPIC};
use idempotency_kafka_rig::Broker;
use idempotency_stack::http::{Answer, Request};
use idempotency_stack::{ports, until, Postgres, Process};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(90);

/// A database, a broker, and where programs log.
pub struct Shop {
    postgres: Arc<Postgres>,
    database: String,
    /// The broker.
    pub broker: Broker,
    port: u16,
    dir: TempDir,
}

impl Shop {
    /// A database of its own on this server, and a broker of its own.
    ///
    /// # Panics
    ///
    /// If something does not start; the message says what to do.
    pub async fn open(postgres: Arc<Postgres>, broker: Broker) -> Shop {
        broker.make_topics(&[TOPIC, DEAD_LETTERS], 2).await;
        let database = postgres.fresh_database();
        Shop {
            postgres,
            database,
            broker,
            port: ports::free(),
            dir: TempDir::new().expect("a directory"),
        }
    }

    /// Starts a program of this package, to be killed at a step if it is named.
    ///
    /// # Panics
    ///
    /// If it is not built.
    pub fn start(&self, program: &str, die_at: Option<&str>) -> Process {
        let mut command = Command::new(path(program));
        command
            .env("DATABASE_URL", &self.database)
            .env("KAFKA_BROKERS", self.broker.address())
            .env("LISTEN", self.address().to_string());
        if let Some(step) = die_at {
            command.env("DIE_AT", step);
        }
        let log = self.dir.path().join(format!("{program}.log"));
        Process::start(program, command, log).expect("a program that starts")
    }

    /// Starts the service and waits until it listens.
    ///
    /// # Panics
    ///
    /// If it does not.
    pub fn start_service(&self, die_at: Option<&str>) -> Process {
        let mut service = self.start("orders-service", die_at);
        let listens = || TcpStream::connect(self.address()).is_ok();
        // One that dies on its way there has nothing to be waited for.
        if let Err(error) = service.await_ready(PATIENCE, listens) {
            assert!(die_at.is_some(), "{error}");
        }
        service
    }

    /// Where the service listens.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    /// Places an order, as a client does. `None`: no answer.
    pub fn place(&self, key: &str, item: &str) -> Option<Answer> {
        let order = serde_json::json!({"customer": "ann", "item": item});
        Request::post("/orders")
            .header("Content-Type", "application/json")
            .header("Idempotency-Key", key)
            .body(order.to_string())
            .send(self.address())
            .ok()
    }

    /// As a client with patience: again with the same key, until there is an answer other than "come again".
    ///
    /// # Panics
    ///
    /// If there is none.
    pub fn place_until_answered(&self, key: &str, item: &str) -> Answer {
        let mut last = None;
        let answered = until(PATIENCE, || {
            last = self.place(key, item);
            let answered = matches!(&last, Some(answer) if answer.status < 400);
            if !answered {
                std::thread::sleep(Duration::from_millis(100));
            }
            answered
        });
        assert!(answered, "no answer but {last:?}");
        last.expect("an answer")
    }

    /// How many rows there are in one of the tables.
    pub fn count(&self, table: &str) -> u64 {
        let name = self.database.rsplit('/').next().unwrap_or_default();
        let count = format!("SELECT count(*) FROM {table}");
        self.postgres.sql(name, &count).parse().unwrap_or(u64::MAX)
    }

    /// Waits until there are so many, at least.
    ///
    /// # Panics
    ///
    /// If there are not.
    pub fn await_count(&self, table: &str, least: u64) {
        let reached = until(PATIENCE, || {
            std::thread::sleep(Duration::from_millis(20));
            self.count(table) >= least
        });
        assert!(reached, "{}: {}", table, self.count(table));
    }

    /// Waits until nothing is left to be sent and to be consumed.
    ///
    /// # Panics
    ///
    /// If that does not happen.
    pub fn await_quiet(&self) {
        let quiet = until(PATIENCE, || {
            std::thread::sleep(Duration::from_millis(50));
            self.count("outbox") == 0
                && (0..2).all(|partition| {
                    let committed = self.broker.committed("billing", TOPIC, partition);
                    committed.unwrap_or(0) == self.broker.count(TOPIC, partition)
                })
        });
        assert!(quiet, "there are events that nobody has consumed");
    }
}

/// Beside the running program, or one directory up (tests run in `deps`).
fn path(program: &str) -> PathBuf {
    let this = std::env::current_exe().unwrap_or_default();
    let mut places = this
        .ancestors()
        .skip(1)
        .take(2)
        .map(|dir| dir.join(program));
    let found = places.find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("{program} is not built: cargo build --package orders --bins"))
}
