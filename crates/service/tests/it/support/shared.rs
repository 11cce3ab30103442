//! Stores that several services share, on real servers.

use super::child::{Child, Dir};
use super::{GATEWAY, OPERATOR, PATIENCE};
use idempotency_stack::{Postgres, Redis, RedisCluster};
use std::sync::Arc;

/// A store, and the servers that it is on.
pub enum Shared {
    Redis(Redis),
    Cluster(RedisCluster),
    Postgres {
        server: Arc<Postgres>,
        database: String,
    },
}

/// Each of these tests, on each kind of store: `on_redis::name`, `on_postgres::name`.
macro_rules! on_shared_stores {
    ($($test:ident),* $(,)?) => {
        mod on_redis {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                super::$test(&crate::support::Shared::redis()).await;
            })*
        }
        #[cfg(feature = "postgres")]
        mod on_postgres {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                super::$test(&crate::support::Shared::postgres()).await;
            })*
        }
    };
}
pub(crate) use on_shared_stores;

impl Shared {
    pub fn redis() -> Shared {
        Shared::Redis(Redis::start(&[]).unwrap())
    }

    pub fn cluster() -> Shared {
        Shared::Cluster(RedisCluster::start(&[]).unwrap())
    }

    /// A new database.
    pub fn postgres() -> Shared {
        let server = match Postgres::shared() {
            Ok(server) => server,
            Err(error) => panic!("{error}"),
        };
        let url = server.fresh_database();
        let database = url.rsplit('/').next().unwrap_or_default().to_owned();
        Shared::Postgres { server, database }
    }

    /// As `--store` names it.
    fn url(&self) -> String {
        match self {
            Shared::Redis(server) => server.url(),
            Shared::Cluster(cluster) => cluster.url(),
            Shared::Postgres { server, database } => server.url(database),
        }
    }

    /// One more service on it.
    pub fn service(&self) -> Child {
        self.service_in(&[], &[])
    }

    /// One more, with further arguments and variables.
    pub fn service_in(&self, more: &[&str], env: &[(&str, &str)]) -> Child {
        self.start(&self.url(), more, env)
    }

    /// One that does not find its calls timed out when it goes on after standing still, and whose
    /// sweeper does not come to the gate. It has one connection for all calls, so that what is done
    /// once per connection is done with the first call.
    pub fn patient_service(&self) -> Child {
        let settings = match self {
            Shared::Redis(_) | Shared::Cluster(_) => "timeout_ms=60000",
            Shared::Postgres { .. } => {
                "statement_timeout_ms=60000&lock_timeout_ms=60000&pool_size=1"
            }
        };
        let url = format!("{}?{settings}", self.url());
        self.start(&url, &["--sweep-interval", "1h"], &[])
    }

    fn start(&self, url: &str, more: &[&str], env: &[(&str, &str)]) -> Child {
        let operator = format!("alice:{OPERATOR}");
        let mut args = vec!["--store", url, "--gateway-token", GATEWAY];
        args.extend(["--operator-token", &operator]);
        if matches!(self, Shared::Postgres { .. }) {
            args.push("--migrate");
        }
        args.extend(more);
        Child::start_in(Dir::new(), &args, env)
    }

    /// The store's time in microseconds.
    pub fn now(&self) -> u64 {
        match self {
            Shared::Redis(server) => {
                let time = server.cli(&["TIME"]).unwrap();
                let mut parts = time.lines().map(|part| part.parse::<u64>().unwrap());
                parts.next().unwrap() * 1_000_000 + parts.next().unwrap()
            }
            Shared::Cluster(_) => panic!("a Cluster has no one clock"),
            Shared::Postgres { server, database } => {
                let now = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";
                server.sql(database, now).parse().unwrap()
            }
        }
    }

    /// From now on the server takes changes, and does not make them until [`Shared::open_gate`].
    pub fn shut_gate(&self) {
        match self {
            Shared::Redis(server) => {
                server.cli(&["CLIENT", "PAUSE", "60000", "WRITE"]).unwrap();
            }
            Shared::Cluster(_) => panic!("a Cluster has no one gate"),
            Shared::Postgres { server, database } => {
                server.sql(database, "CREATE TABLE IF NOT EXISTS gate ()");
                server.sql(database, "TRUNCATE gate");
                let (held, name) = (Arc::clone(server), database.clone());
                std::thread::spawn(move || {
                    held.sql(
                        &name,
                        "DO $$ BEGIN
                             LOCK TABLE idempotency_records IN SHARE ROW EXCLUSIVE MODE;
                             WHILE NOT EXISTS (SELECT FROM gate) LOOP
                                 PERFORM pg_sleep(0.002);
                             END LOOP;
                         END $$",
                    )
                });
                let locked = "SELECT count(*) FROM pg_locks WHERE granted
                    AND mode = 'ShareRowExclusiveLock' AND relation = 'idempotency_records'::regclass";
                let locked = || server.sql(database, locked) == "1";
                assert!(idempotency_stack::until(PATIENCE, locked));
            }
        }
    }

    /// Until somebody's change waits at the gate; a sweep's does not count, where it can be told.
    pub fn await_at_gate(&self) {
        let arrived = || match self {
            Shared::Redis(server) => {
                let clients = server.cli(&["INFO", "clients"]).unwrap();
                !clients.contains("blocked_clients:0")
            }
            Shared::Cluster(_) => panic!("a Cluster has no one gate"),
            Shared::Postgres { server, database } => {
                let blocked = "SELECT count(*) FROM pg_stat_activity
                    WHERE datname = current_database() AND wait_event_type = 'Lock'
                        AND query NOT LIKE '%ORDER BY r.due%'";
                server.sql(database, blocked) != "0"
            }
        };
        assert!(
            idempotency_stack::until(PATIENCE, arrived),
            "nothing came to the gate"
        );
    }

    /// The changes are made, the answers sent.
    pub fn open_gate(&self) {
        match self {
            Shared::Redis(server) => {
                server.cli(&["CLIENT", "UNPAUSE"]).unwrap();
            }
            Shared::Cluster(_) => panic!("a Cluster has no one gate"),
            Shared::Postgres { server, database } => {
                server.sql(database, "INSERT INTO gate DEFAULT VALUES");
            }
        }
    }
}
