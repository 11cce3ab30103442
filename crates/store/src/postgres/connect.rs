//! Connecting to that one of several hosts which takes writes, and to none that was replaced.
//!
//! Each promotion of a standby begins a new *timeline*, with a larger number. A primary that comes
//! back after its standby was promoted (a machine that stood still, a server that somebody started
//! again) takes writes as if nothing had happened, on the old timeline. What is written there is
//! lost, and what was written since is not there: so it is not used any more once the new timeline
//! was seen. This is no fence around the old primary; only taking it from the network is.

use super::error::{PostgresFailure, RetryAdvice};
use super::options::PostgresOptions;
use crate::transaction::Primary;
use deadpool_postgres::ClientWrapper;
use futures_util::future::join_all;
use std::fmt::Write as _;
use std::future::poll_fn;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::timeout;
use tokio_postgres::config::Host;
use tokio_postgres::tls::TlsStream;
use tokio_postgres::{AsyncMessage, Config, Connection, Notification, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

/// Which copy of the data this is. Servers that know neither are not told apart.
const WHICH: &str = "
    SELECT (SELECT system_identifier FROM pg_control_system()),
        ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::bigint";

/// Connects to the servers of a store.
pub(super) struct PostgresConnector {
    hosts: Vec<Config>,
    tls: MakeRustlsConnect,
    set_up: String,
    /// Longest time for one host, from its name to a session that is set up.
    timeout: Duration,
    known: Mutex<KnownHosts>,
}

/// What earlier connections have shown.
#[derive(Default)]
struct KnownHosts {
    /// The newest timeline.
    newest: Option<Timeline>,
    /// The host that worked last; it is tried first.
    last: Option<usize>,
}

/// A line of history: of which database cluster, and how often it has changed its primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Timeline {
    system: i64,
    number: i64,
}

impl Timeline {
    /// Whether another one took this one's place.
    fn is_replaced_by(self, other: Option<Timeline>) -> bool {
        other.is_some_and(|other| other.system == self.system && other.number > self.number)
    }
}

/// A connection that is set up.
pub(super) struct Session {
    pub client: ClientWrapper,
    timeline: Option<Timeline>,
}

impl Session {
    pub fn primary(&self) -> Primary {
        primary(self.timeline)
    }
}

fn primary(timeline: Option<Timeline>) -> Primary {
    timeline.map_or(Primary::UNKNOWN, |t| Primary::new(t.system, t.number))
}

impl PostgresConnector {
    /// The newest that was seen.
    pub fn primary(&self) -> Primary {
        primary(self.known().newest)
    }

    pub fn new(options: &PostgresOptions, tls: MakeRustlsConnect) -> PostgresConnector {
        PostgresConnector {
            hosts: options.hosts.clone(),
            tls,
            set_up: set_up(options),
            timeout: options.connect_timeout(),
            known: Mutex::default(),
        }
    }

    /// No code that can panic runs under this lock.
    fn known(&self) -> std::sync::MutexGuard<'_, KnownHosts> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new session on the primary. What it is notified of goes to `heard`.
    pub async fn connect(
        &self,
        heard: Option<UnboundedSender<Notification>>,
    ) -> Result<Session, PostgresFailure> {
        let last = self.known().last;
        let Some(first) = last else {
            return self.newest_of_all(heard).await;
        };
        let mut troubles = Vec::new();
        for place in (0..self.hosts.len()).map(|n| (first + n) % self.hosts.len()) {
            match self.host(place, heard.clone()).await {
                Ok(session) => match self.take(place, session) {
                    Ok(session) => return Ok(session),
                    Err(trouble) => troubles.push((place, trouble)),
                },
                Err(trouble) => troubles.push((place, trouble)),
            }
        }
        Err(self.all(troubles))
    }

    /// Who has seen nothing yet asks everybody: of two that take writes the newer one is right.
    async fn newest_of_all(
        &self,
        heard: Option<UnboundedSender<Notification>>,
    ) -> Result<Session, PostgresFailure> {
        let asked = (0..self.hosts.len()).map(|place| self.host(place, heard.clone()));
        let mut troubles = Vec::new();
        let mut newest: Option<(usize, Session)> = None;
        for (place, asked) in join_all(asked).await.into_iter().enumerate() {
            match (asked, &newest) {
                (Err(trouble), _) => troubles.push((place, trouble)),
                (Ok(session), Some((_, other)))
                    if !other
                        .timeline
                        .is_some_and(|one| one.is_replaced_by(session.timeline)) => {}
                (Ok(session), _) => newest = Some((place, session)),
            }
        }
        match newest {
            Some((place, session)) => self.take(place, session),
            None => Err(self.all(troubles)),
        }
    }

    /// A session on one host, which may be of an old timeline.
    async fn host(
        &self,
        place: usize,
        heard: Option<UnboundedSender<Notification>>,
    ) -> Result<Session, PostgresFailure> {
        let Some(config) = self.hosts.get(place) else {
            return Err(PostgresFailure::permanent("PostgreSQL: no host"));
        };
        let work = async {
            let (client, connection) = config.connect(self.tls.clone()).await?;
            let client = ClientWrapper::new(client, tokio::spawn(drive(connection, heard)));
            client.batch_execute(&self.set_up).await?;
            let timeline = match client.query_one(WHICH, &[]).await {
                Ok(row) => Some(Timeline {
                    system: row.get(0),
                    number: row.get(1),
                }),
                // Some that speak PostgreSQL's protocol have no such thing.
                Err(error) if error.as_db_error().is_some() => None,
                Err(error) => return Err(error.into()),
            };
            Ok(Session { client, timeline })
        };
        match timeout(self.timeout, work).await {
            Ok(result) => result,
            Err(_) => Err(PostgresFailure::transient(
                "PostgreSQL: connecting took too long",
            )),
        }
    }

    /// Notes what the session shows; refuses it if it is of the past.
    fn take(&self, place: usize, session: Session) -> Result<Session, PostgresFailure> {
        let mut known = self.known();
        if let (Some(found), Some(newest)) = (session.timeline, known.newest) {
            if found.is_replaced_by(Some(newest)) {
                return Err(PostgresFailure::transient(format!(
                    "PostgreSQL: an old primary, on timeline {} where {} was seen: take it from \
                     the network",
                    found.number, newest.number
                )));
            }
        }
        known.newest = session.timeline.or(known.newest);
        known.last = Some(place);
        Ok(session)
    }

    /// Whether its server was replaced since it began, or it is closed.
    pub fn is_over(&self, session: &Session) -> bool {
        let replaced = |timeline: Timeline| timeline.is_replaced_by(self.known().newest);
        session.client.is_closed() || session.timeline.is_some_and(replaced)
    }

    /// What no host would do, in one.
    fn all(&self, mut troubles: Vec<(usize, PostgresFailure)>) -> PostgresFailure {
        if troubles.len() == 1 {
            if let Some((_, only)) = troubles.pop() {
                return only;
            }
        }
        let mut text = "PostgreSQL: no host takes writes".to_owned();
        for (place, trouble) in &troubles {
            let name = self.hosts.get(*place).map(name).unwrap_or_default();
            // A String takes everything.
            let _ = write!(text, "; {name}: {}", trouble.error);
        }
        if troubles.iter().all(|(_, t)| t.kind == RetryAdvice::Final) {
            PostgresFailure::permanent(text)
        } else {
            PostgresFailure::transient(text)
        }
    }
}

/// As the URL names it.
fn name(config: &Config) -> String {
    let host = match (config.get_hosts().first(), config.get_hostaddrs().first()) {
        (Some(Host::Tcp(name)), _) => name.clone(),
        (Some(Host::Unix(path)), _) => path.display().to_string(),
        (None, Some(address)) => address.to_string(),
        (None, None) => String::new(),
    };
    let port = config.get_ports().first().copied().unwrap_or(5432);
    format!("{host}:{port}")
}

/// Moves what travels on a connection until one of its sides is gone.
async fn drive<S>(
    mut connection: Connection<Socket, S>,
    heard: Option<UnboundedSender<Notification>>,
) where
    S: TlsStream + Unpin,
{
    while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
        if let (AsyncMessage::Notification(notification), Some(heard)) = (message, &heard) {
            if heard.send(notification).is_err() {
                return;
            }
        }
    }
}

/// What every session starts with.
fn set_up(options: &PostgresOptions) -> String {
    let statement = options.statement_timeout.as_millis();
    let lock = options.lock_timeout.as_millis();
    // Every statement finds its rows by key or by the index of what is due. The planner must not
    // think otherwise while the table is small: it keeps its plan while the table grows.
    format!(
        "SET statement_timeout = {statement};
         SET lock_timeout = {lock};
         SET idle_in_transaction_session_timeout = {statement};
         SET default_transaction_isolation = 'read committed';
         SET plan_cache_mode = force_generic_plan;
         SET enable_seqscan = off;
         SET enable_bitmapscan = off;
         SET enable_hashjoin = off;
         SET enable_mergejoin = off;
         SET jit = off"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeline_is_replaced_by_a_later_one_of_the_same_cluster() {
        let line = |system, number| Timeline { system, number };
        assert!(line(1, 1).is_replaced_by(Some(line(1, 2))));
        assert!(!line(1, 2).is_replaced_by(Some(line(1, 2))));
        assert!(!line(1, 3).is_replaced_by(Some(line(1, 2))));
        // Another cluster has a history of its own.
        assert!(!line(1, 1).is_replaced_by(Some(line(2, 2))));
        assert!(!line(1, 1).is_replaced_by(None));
    }
}
