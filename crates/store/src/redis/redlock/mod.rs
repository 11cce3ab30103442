//! The guard: a lock that must also be held on a majority of independent nodes.
//!
//! The records stay in the main Redis, and it alone decides who is granted. What the guard adds: a
//! key whose execution the main Redis forgot (in a fail-over, say) is not granted again while the
//! lock of that execution holds. See `docs/operations.md` for what that is worth, and ADR 8 for why
//! it works like this. The algorithm is Redlock (redis.io, "Distributed Locks with Redis").

mod node;
mod options;
mod tally;

pub use options::{BadNodes, RedlockOptions};

use super::call::ScriptCall;
use super::names::Names;
use super::options::RedisOptions;
use crate::store::StoreError;
use bytes::Bytes;
use futures_util::future::join_all;
use idempotency_protocol::{LookupKey, Owner};
use node::RedlockNode;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::Duration;
use tally::{Tally, Vote};
use tokio::sync::mpsc::{unbounded_channel, UnboundedReceiver};
use tokio::sync::{Notify, Semaphore};
use tokio::time::{sleep, sleep_until, timeout, timeout_at, Instant};

/// Longest look at a node's health; as much as a look at the main Redis may take.
const LOOK: Duration = Duration::from_secs(1);

/// How long a node that does not answer is told again to release a lock, and how often: as long as
/// its mark would last (`script/lock.lua`). It may have been stopped with our take already in its queue.
const INSIST: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(500);
/// Between two looks for nodes that do not answer.
const LISTEN_PAUSE: Duration = Duration::from_millis(100);
/// Most releases on their way at one time that are insisted on. The others' locks end by themselves.
const MOST_INSISTING: usize = 4_096;

/// A majority could not be had: too many nodes said no, or nothing.
#[derive(Clone, Debug)]
pub(super) struct Missed(Tally);

impl fmt::Display for Missed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the lock is held on {}", self.0)
    }
}

/// Which lock to release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whose {
    Owner(Owner),
    /// Of the execution with that fence.
    Fence(u64),
}

/// The guard.
pub(super) struct Redlock {
    nodes: Vec<Arc<RedlockNode>>,
    quorum: usize,
    timeout: Duration,
    drift_percent: u32,
    names: Names,
    insisting: Arc<Semaphore>,
    /// Too few nodes answer: nobody need try.
    deaf: AtomicBool,
    went_deaf: Notify,
}

impl Redlock {
    /// `prefix`: of the records' names.
    pub fn new(options: &RedlockOptions, prefix: &str) -> Result<Redlock, StoreError> {
        let node = |node: &RedisOptions| {
            let options = RedisOptions {
                timeout: options.timeout,
                ..node.clone()
            };
            RedlockNode::new(options).map(Arc::new)
        };
        Ok(Redlock {
            nodes: options.nodes.iter().map(node).collect::<Result<_, _>>()?,
            quorum: options.quorum(),
            timeout: options.timeout,
            drift_percent: options.drift_percent,
            // A node may serve as the main Redis of another product.
            names: Names::new(&format!("{prefix}lock:")),
            insisting: Arc::new(Semaphore::new(MOST_INSISTING)),
            deaf: AtomicBool::new(false),
            went_deaf: Notify::new(),
        })
    }

    /// Takes the lock, or goes on holding it, for a lease. It is valid for at least that long from
    /// when this was called, whatever time it took: nodes are told the drift on top, and who uses
    /// the grant counts its lease from when it asked for it, which was earlier.
    ///
    /// What is left of another owner's lock is waited for, if it is not more than the timeout: the
    /// main Redis would not have granted while that lease was running, but the nodes keep a lock a
    /// little longer.
    ///
    /// # Errors
    ///
    /// Without a majority. Nodes that gave their vote keep it until they are told to let go
    /// ([`Redlock::let_go`]).
    pub async fn take(
        &self,
        key: &LookupKey,
        owner: Owner,
        fence: Option<u64>,
        lease_ms: u64,
    ) -> Result<(), Missed> {
        let hold = tally::hold(Duration::from_millis(lease_ms), self.drift_percent);
        let rest = vec![
            owner_of(owner),
            fence.map_or_else(Bytes::new, decimal),
            decimal(u64::try_from(hold.as_millis()).unwrap_or(u64::MAX)),
        ];
        let call = ScriptCall::lock(self.names.of(key), "take", rest);
        // Monotonic: neither a node's clock nor the time of day here has a part in it.
        let deadline = Instant::now() + self.timeout;
        loop {
            let tally = self.count(self.ask_each(&call), deadline).await;
            if tally.verdict() == Some(true) {
                return Ok(());
            }
            match tally.free_in().map(|left| Instant::now() + left) {
                Some(free) if free < deadline => sleep_until(free).await,
                _ => {
                    if tally.is_deaf() {
                        self.deaf.store(true, Ordering::Release);
                        self.went_deaf.notify_one();
                    }
                    return Err(Missed(tally));
                }
            }
        }
    }

    /// Releases the lock; returns when a majority has, or when the time is up. What is not released
    /// ends by itself.
    pub async fn release(&self, key: &LookupKey, whose: Whose) {
        let deadline = Instant::now() + self.timeout;
        let votes = self.tell_each(&self.releasing(key, whose));
        let _ = self.count(votes, deadline).await;
    }

    /// Takes back what [`Redlock::take`] may have taken without success, and does not wait for it.
    pub fn let_go(&self, key: &LookupKey, owner: Owner) {
        let name = self.names.of(key);
        drop(self.tell_each(&ScriptCall::lock(name, "cancel", vec![owner_of(owner)])));
    }

    /// Whether grants are out of the question: when the last one was missed, too few nodes
    /// answered, and they have not been heard since.
    pub fn is_deaf(&self) -> bool {
        self.deaf.load(Ordering::Acquire)
    }

    /// Listens for the nodes whenever they do not answer. Without this, every acquire would run
    /// into its timeout, and its record from executing to failed.
    pub async fn listen(&self) {
        let anybody = ScriptCall::lock(self.names.probe(), "settle", vec![decimal(0)]);
        loop {
            self.went_deaf.notified().await;
            while self.is_deaf() {
                // To connect takes longer than to ask.
                let deadline = Instant::now() + self.timeout.saturating_mul(4);
                let tally = self.count(self.ask_each(&anybody), deadline).await;
                if tally.verdict() == Some(true) {
                    self.deaf.store(false, Ordering::Release);
                } else {
                    sleep(LISTEN_PAUSE).await;
                }
            }
        }
    }

    fn releasing(&self, key: &LookupKey, whose: Whose) -> ScriptCall {
        let name = self.names.of(key);
        match whose {
            Whose::Owner(owner) => ScriptCall::lock(name, "release", vec![owner_of(owner)]),
            Whose::Fence(fence) => ScriptCall::lock(name, "settle", vec![decimal(fence)]),
        }
    }

    /// Counts votes until a majority is reached or cannot be any more.
    async fn count(&self, mut votes: UnboundedReceiver<Vote>, deadline: Instant) -> Tally {
        let mut tally = Tally::new(self.nodes.len(), self.quorum);
        while tally.verdict().is_none() {
            match timeout_at(deadline, votes.recv()).await {
                Ok(Some(vote)) => tally.count(vote),
                Ok(None) | Err(_) => break,
            }
        }
        tally
    }

    /// Asks all nodes at once. Every node is asked to the end, also when nobody waits for its answer
    /// any more: the more nodes hold a lock, the more of them may fail.
    fn ask_each(&self, call: &ScriptCall) -> UnboundedReceiver<Vote> {
        let (sender, votes) = unbounded_channel();
        for node in &self.nodes {
            let (node, call, sender) = (Arc::clone(node), call.clone(), sender.clone());
            tokio::spawn(async move {
                let _ = sender.send(node.ask_if_trusted(&call).await);
            });
        }
        votes
    }

    /// The same, and asks nodes that cannot answer again and again.
    fn tell_each(&self, call: &ScriptCall) -> UnboundedReceiver<Vote> {
        let (sender, votes) = unbounded_channel();
        let end = Instant::now() + INSIST;
        for node in &self.nodes {
            let (node, call, sender) = (Arc::clone(node), call.clone(), sender.clone());
            let insisting = Arc::clone(&self.insisting);
            tokio::spawn(async move {
                let mut vote = node.ask(&call).await;
                let _ = sender.send(vote.clone());
                let Ok(_permit) = insisting.try_acquire() else {
                    return;
                };
                while matches!(vote, Vote::Failed(_)) && Instant::now() < end && !node.is_closed() {
                    sleep(PAUSE).await;
                    vote = node.ask(&call).await;
                }
            });
        }
        votes
    }

    /// Whether a majority can be had now. `main`: the run ids of the main Redis.
    ///
    /// # Errors
    ///
    /// Transient: too few nodes are well. Permanent: nodes are not independent. With `at_start`, all
    /// that will not pass by itself, of any node.
    pub async fn look_after(&self, main: &[String], at_start: bool) -> Result<(), StoreError> {
        let looks = join_all(self.nodes.iter().map(|node| async move {
            let look = timeout(LOOK, node.look_after()).await;
            let look = look.unwrap_or_else(|_| Err(StoreError::Transient("no answer".into())));
            (node.place(), look)
        }));
        let mut well: Vec<(String, String)> = Vec::new();
        let mut ill = None;
        for (place, look) in looks.await {
            match look {
                Ok(id) => {
                    let twin = well
                        .iter()
                        .find(|(_, other)| *other == id && !id.is_empty());
                    let twin = twin.map(|(place, _)| place.as_str());
                    let is_main = !id.is_empty() && main.contains(&id);
                    if let Some(twin) = twin.or(is_main.then_some("the main Redis")) {
                        return Err(StoreError::Permanent(format!(
                            "Redlock: {place} is the same server as {twin}"
                        )));
                    }
                    well.push((place, id));
                }
                Err(StoreError::Permanent(why)) if at_start => {
                    return Err(StoreError::Permanent(format!("Redlock: {place}: {why}")));
                }
                Err(why) => {
                    ill.get_or_insert(format!("{place}: {why}"));
                }
            }
        }
        match ill {
            Some(why) if well.len() < self.quorum => Err(StoreError::Transient(format!(
                "Redlock: only {} of {} nodes are well, {} are needed ({why})",
                well.len(),
                self.nodes.len(),
                self.quorum
            ))),
            _ => Ok(()),
        }
    }

    /// Asks no node any more.
    pub fn close(&self) {
        for node in &self.nodes {
            node.close();
        }
    }
}

fn owner_of(owner: Owner) -> Bytes {
    Bytes::copy_from_slice(&owner.0)
}

fn decimal(n: u64) -> Bytes {
    Bytes::from(n.to_string())
}
