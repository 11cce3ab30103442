//! Hearing of executions that ended in other processes: the *bell* wakes the waiters of this process.
//!
//! The script publishes on a sharded channel with the record's name, so a message stays within one
//! shard of a Cluster, and goes only to processes in which a request waits for that record. One
//! connection per process holds all subscriptions. A message can be lost (Redis promises none), so
//! waiters look by themselves now and then.

use super::connect::{Purpose, RedisConnector, SharedConnection};
use super::names::Names;
use crate::waiters::Waiters;
use bytes::Bytes;
use idempotency_protocol::LookupKey;
use redis::{PushInfo, PushKind, RedisResult, Value};
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::{unbounded_channel, UnboundedReceiver, UnboundedSender};
use tokio::sync::oneshot;
use tokio::time::{sleep_until, Instant};

/// Between two attempts to connect.
const PAUSE: Duration = Duration::from_millis(200);

enum SubscriptionJob {
    Listen(Bytes, oneshot::Sender<()>),
    Leave(Bytes),
}

/// Subscribes and unsubscribes.
#[derive(Clone)]
pub(super) struct Bell {
    jobs: UnboundedSender<SubscriptionJob>,
    /// How many listen, and are subscribed.
    listeners: Arc<AtomicUsize>,
}

/// Listens for one record; dropping it ends that.
pub(super) struct Listening {
    name: Bytes,
    bell: Bell,
    subscribed: bool,
}

impl Drop for Listening {
    fn drop(&mut self) {
        if self.subscribed {
            self.bell.listeners.fetch_sub(1, Ordering::Relaxed);
        }
        let _ = self
            .bell
            .jobs
            .send(SubscriptionJob::Leave(self.name.clone()));
    }
}

impl Bell {
    /// Starts the task that holds the subscriptions. It ends when the bell and all that listen are
    /// gone.
    pub fn start(connector: Arc<RedisConnector>, names: Names, waiters: Arc<Waiters>) -> Bell {
        let (jobs, queue) = unbounded_channel();
        let (messages, pushes) = unbounded_channel();
        let purpose = Purpose {
            timeout: connector.options().timeout,
            messages: Some(messages),
        };
        let ringer = Ringer {
            connector,
            purpose,
            names,
            waiters,
            connection: None,
            retry_at: Instant::now(),
            heard: HashMap::new(),
        };
        tokio::spawn(ringer.run(queue, pushes));
        Bell {
            jobs,
            listeners: Arc::default(),
        }
    }

    /// How many listen now, and would hear of a change.
    pub fn listeners(&self) -> usize {
        self.listeners.load(Ordering::Relaxed)
    }

    /// Listens for a record. On return, what is published afterwards is heard, if the server can
    /// be reached.
    pub async fn listen(&self, name: Bytes) -> Listening {
        let (done, subscribed) = oneshot::channel();
        let _ = self.jobs.send(SubscriptionJob::Listen(name.clone(), done));
        // Who is dropped while it is being subscribed leaves, too.
        let mut listening = Listening {
            name,
            bell: self.clone(),
            subscribed: false,
        };
        let _ = subscribed.await;
        self.listeners.fetch_add(1, Ordering::Relaxed);
        listening.subscribed = true;
        listening
    }
}

/// The task.
struct Ringer {
    connector: Arc<RedisConnector>,
    purpose: Purpose,
    names: Names,
    waiters: Arc<Waiters>,
    connection: Option<SharedConnection>,
    retry_at: Instant,
    /// Who listens, by record.
    heard: HashMap<Bytes, usize>,
}

impl Ringer {
    async fn run(
        mut self,
        mut queue: UnboundedReceiver<SubscriptionJob>,
        mut pushes: UnboundedReceiver<PushInfo>,
    ) {
        loop {
            // Without anybody who listens there is nothing to be connected for.
            let due = self.connection.is_none() && !self.heard.is_empty();
            tokio::select! {
                job = queue.recv() => match job {
                    Some(job) => self.job(job).await,
                    None => return,
                },
                push = pushes.recv() => if let Some(push) = push {
                    self.push(push);
                },
                () = sleep_until(self.retry_at), if due => self.connect().await,
            }
        }
    }

    async fn job(&mut self, job: SubscriptionJob) {
        match job {
            SubscriptionJob::Listen(name, done) => {
                let count = self.heard.entry(name.clone()).or_default();
                *count += 1;
                if *count == 1 {
                    if self.connection.is_some() {
                        self.send(true, &[name]).await;
                    } else if self.retry_at <= Instant::now() {
                        self.connect().await;
                    }
                }
                let _ = done.send(());
            }
            SubscriptionJob::Leave(name) => {
                let Some(count) = self.heard.get_mut(&name) else {
                    return;
                };
                *count = count.saturating_sub(1);
                if *count == 0 {
                    self.heard.remove(&name);
                    self.send(false, &[name]).await;
                }
            }
        }
    }

    fn push(&mut self, push: PushInfo) {
        match push.kind {
            PushKind::SMessage => {
                if let Some(Value::BulkString(channel)) = push.data.first() {
                    if let Some(key) = self.key(channel) {
                        self.waiters.wake(&key);
                    }
                }
            }
            // A node is gone, or a slot has moved: subscribe to everything anew, and let everybody
            // look, since nobody knows what was missed.
            PushKind::Disconnection => self.lose(),
            PushKind::SUnsubscribe => {
                if let Some(Value::BulkString(channel)) = push.data.first() {
                    if self.heard.contains_key(channel.as_slice()) {
                        self.lose();
                    }
                }
            }
            _ => {}
        }
    }

    fn key(&self, channel: &[u8]) -> Option<LookupKey> {
        self.names.key(channel)
    }

    fn lose(&mut self) {
        self.connection = None;
        self.retry_at = Instant::now();
        self.waiters.wake_all();
    }

    async fn connect(&mut self) {
        self.retry_at = Instant::now() + PAUSE;
        if let Ok(connection) = self.connector.open(&self.purpose).await {
            self.connection = Some(connection);
            let all: Vec<Bytes> = self.heard.keys().cloned().collect();
            self.send(true, &all).await;
            // What happened before the subscriptions were there was not heard.
            self.waiters.wake_all();
        }
    }

    /// Subscribes or unsubscribes; on failure the connection is given up.
    async fn send(&mut self, subscribe: bool, channels: &[Bytes]) {
        let Some(connection) = self.connection.as_mut() else {
            return;
        };
        for channel in channels {
            if change(connection, subscribe, channel).await.is_err() {
                self.connection = None;
                self.retry_at = Instant::now() + PAUSE;
                return;
            }
        }
    }
}

async fn change(
    connection: &mut SharedConnection,
    subscribe: bool,
    channel: &[u8],
) -> RedisResult<()> {
    match (connection, subscribe) {
        (SharedConnection::Cluster(cluster), true) => cluster.ssubscribe(channel).await,
        (SharedConnection::Cluster(cluster), false) => cluster.sunsubscribe(channel).await,
        (SharedConnection::Node(node), subscribe) => {
            let verb = if subscribe {
                "SSUBSCRIBE"
            } else {
                "SUNSUBSCRIBE"
            };
            let value = node
                .send_packed_command(redis::cmd(verb).arg(channel))
                .await?;
            value.extract_error().map(|_| ())
        }
    }
}
