//! Records in Redis (or Valkey): one server, a master under Sentinel, or a Cluster.
//!
//! Every operation is one call of one script, atomic and on the server's clock (`script.lua`). See
//! `docs/operations.md` for what each topology can lose, and ADR 0007 for the layout.

mod bell;
mod caller;
mod connect;
mod errors;
mod gate;
mod guarded;
mod health;
mod ledger;
mod link;
mod meta;
mod names;
mod options;
mod redlock;
mod reply;
mod scan;
mod script;
mod send;
mod together;

pub use options::{Address, RedisOptions, Tls, Topology, WaitReplicas};
pub use redlock::{BadNodes, RedlockOptions};
pub use script::SOURCE as SCRIPT;

use crate::machine::{Event, Room};
use crate::quota::Quotas;
use crate::store::{
    ListFilter, Page, RecordView, Resolve, Resolved, Store, StoreError, Swept, Usage,
};
use crate::waiters::{Look, WaitCounts, Waiters};
use async_trait::async_trait;
use bell::Bell;
use bytes::Bytes;
use caller::Caller;
use connect::Connector;
use errors::{is_out_of_memory, store_error};
use gate::Gate;
use health::Health;
use idempotency_protocol::{Answer, Fault, FaultCode, Grant, LookupKey, Operation, Wait};
use ledger::Ledger;
use names::Names;
use redlock::{Redlock, Whose};
use reply::{Asked, Elsewhere, Reply};
use script::{Call, Scripts};
use send::Outcome;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

/// A waiter looks by itself after this long, in case that a message was lost.
const POLL_MS: u64 = 1_000;
/// How often the servers are asked how full they are.
const HEALTH_INTERVAL: Duration = Duration::from_secs(1);

/// Records in Redis.
pub struct RedisStore {
    shared: Arc<Shared>,
    bell: Bell,
    waiters: Arc<Waiters>,
    guard: Option<Arc<Redlock>>,
    /// Where there are quotas.
    ledger: RwLock<Option<Arc<Ledger>>>,
    /// Enters what was there before the quotas.
    counting: Mutex<Option<JoinHandle<()>>>,
    sweeping: Mutex<scan::Place>,
    watching: Vec<JoinHandle<()>>,
}

/// What the background task needs too.
struct Shared {
    connector: Arc<Connector>,
    caller: Caller,
    names: Names,
    room: AtomicU8,
    gate: Gate,
    /// The last look found no servers.
    away: AtomicBool,
    closed: AtomicBool,
}

impl RedisStore {
    /// Opens the store. A server that cannot be reached now is no error: the store then is not
    /// ready until it can.
    ///
    /// # Errors
    ///
    /// What will not pass by itself: a wrong password, a server of another kind or too old, a
    /// certificate that cannot be read.
    pub async fn open(options: RedisOptions) -> Result<RedisStore, StoreError> {
        RedisStore::start(options, Scripts::new()).await
    }

    /// The same on a clock that a test moves: the number of microseconds at `clock`, which must
    /// be ahead of the server's own.
    #[cfg(feature = "contract")]
    pub async fn open_on_clock(
        options: RedisOptions,
        clock: &str,
    ) -> Result<RedisStore, StoreError> {
        RedisStore::start(options, Scripts::on_the_clock_at(clock)).await
    }

    async fn start(options: RedisOptions, scripts: Scripts) -> Result<RedisStore, StoreError> {
        let names = Names::new(&options.prefix);
        let waiters = Waiters::new(options.waiters);
        let guard = options.guard.as_ref();
        let guard = guard.map(|guard| Redlock::new(guard, &options.prefix));
        let guard = guard.transpose()?.map(Arc::new);
        let connector = Arc::new(Connector::new(options).map_err(StoreError::Permanent)?);
        let shared = Arc::new(Shared {
            caller: Caller::new(&connector, scripts),
            connector: Arc::clone(&connector),
            names: names.clone(),
            room: AtomicU8::new(0),
            gate: Gate::new(),
            away: AtomicBool::new(false),
            closed: AtomicBool::new(false),
        });
        let main = match shared.look_after().await {
            Ok(health) => health.run_ids,
            Err(error) => {
                // A better word for it, if there is one.
                shared.connector.diagnose().await?;
                if matches!(error, StoreError::Permanent(_)) {
                    return Err(error);
                }
                Vec::new()
            }
        };
        if let Some(guard) = &guard {
            match guard.look_after(&main, true).await {
                Err(error @ StoreError::Permanent(_)) => return Err(error),
                Ok(()) | Err(StoreError::Transient(_)) => {}
            }
        }
        let mut watching = vec![tokio::spawn(watch(Arc::clone(&shared), guard.clone()))];
        if let Some(guard) = guard.clone() {
            watching.push(tokio::spawn(async move { guard.listen().await }));
        }
        Ok(RedisStore {
            bell: Bell::start(connector, names, Arc::clone(&waiters)),
            watching,
            shared,
            waiters,
            guard,
            ledger: RwLock::default(),
            counting: Mutex::default(),
            sweeping: Mutex::default(),
        })
    }

    /// Why nothing is granted now, if so, whatever the room.
    fn refuses(&self) -> Option<Arc<str>> {
        let deaf = |guard: &Arc<Redlock>| guard.is_deaf();
        match self.shared.gate.closed() {
            Some(why) => Some(format!("Redis: {why}").into()),
            None if self.guard.as_ref().is_some_and(deaf) => {
                Some("Redlock: too few nodes answer".into())
            }
            None => None,
        }
    }

    /// Number of waits now that are subscribed and would hear of a change.
    pub fn waiting(&self) -> usize {
        self.bell.listeners()
    }

    /// Applies operations; with a ledger, those on one key are one at most.
    async fn carry_out(&self, operations: Vec<Operation>, ledger: Option<&Ledger>) -> Vec<Answer> {
        // Without trust, or the guard's nodes, nobody is granted, which the script need not try.
        let refuses = self.refuses();
        let room = match self.shared.room() {
            Room::Plenty if refuses.is_some() => Room::NoGrants,
            room => room,
        };
        let mut asked = Vec::with_capacity(operations.len());
        let mut events = Vec::with_capacity(operations.len());
        let mut calls = Vec::with_capacity(operations.len());
        for operation in operations {
            asked.push(Asked::of(&operation));
            let (key, event) = Event::prepare(operation);
            let call = Call::apply(self.shared.names.of(&key), &event, room);
            calls.push(match ledger {
                Some(_) => call.of_what_is_there(),
                None => call,
            });
            events.push((key, event));
        }
        let outcomes = self.shared.caller.all(&calls, true).await;
        let mut concluded = self.conclude(asked, &events, &calls, outcomes).await;
        if let Some(ledger) = ledger {
            self.make_new_records(ledger, &events, &mut calls, &mut concluded)
                .await;
        }
        let mut answers = match &self.guard {
            Some(guard) => self.guarded(guard, &events, &calls, concluded).await,
            None => concluded.into_iter().map(|c| c.answer).collect(),
        };
        if let Some(ledger) = ledger {
            ledger.follow(&self.shared.caller, &events, &answers).await;
        }
        if let Some(why) = &refuses {
            gate::explain(&mut answers, why);
        }
        for ((key, event), answer) in events.iter().zip(&answers) {
            if ends_an_execution(event, answer) {
                self.waiters.wake(key);
            }
        }
        answers
    }

    /// Turns what came of operations into their answers.
    async fn conclude(
        &self,
        asked: Vec<Asked>,
        events: &[(LookupKey, Event)],
        calls: &[Call],
        outcomes: Vec<Outcome>,
    ) -> Vec<Concluded> {
        let mut concluded = Vec::with_capacity(calls.len());
        // Nearly always none: their futures are large, and not made before they are needed.
        let mut unfinished = Vec::new();
        let each = outcomes.into_iter().zip(asked).zip(events).zip(calls);
        for (at, (((outcome, asked), (_, event)), call)) in each.enumerate() {
            let confirmed = outcome.confirmed;
            let finish = match outcome.value {
                Ok(value) => match at_once(reply::answer(value, asked), confirmed) {
                    Ok(answer) => {
                        concluded.push(answer);
                        continue;
                    }
                    Err(reply) => Unfinished::Reply(reply),
                },
                Err(error) => Unfinished::Error(error, asked),
            };
            concluded.push(Concluded::old(reply::unreadable_answer()));
            unfinished.push(async move { (at, self.finish(finish, event, call).await) });
        }
        if !unfinished.is_empty() {
            for (at, answer) in futures_util::future::join_all(unfinished).await {
                if let Some(place) = concluded.get_mut(at) {
                    *place = answer;
                }
            }
        }
        concluded
    }

    /// Does what is left to do before an operation can be answered.
    async fn finish(&self, what: Unfinished, event: &Event, call: &Call) -> Concluded {
        let reply = match what {
            Unfinished::Reply(reply) => reply,
            // What ends an execution must get through, at least as a fact.
            Unfinished::Error(error, asked)
                if is_out_of_memory(&error) && call.must_get_through =>
            {
                let fact = Call::as_fact(event, call.key.clone());
                let reply = match self.shared.caller.at_any_cost(&fact).await {
                    Ok(value) => reply::answer(value, asked),
                    Err(error) => return Concluded::old(reply::fault(Some(event), &error)),
                };
                let confirmed = self.shared.connector.options().wait.is_none();
                match at_once(reply, confirmed) {
                    Ok(answer) => return answer,
                    Err(reply) => reply,
                }
            }
            Unfinished::Error(error, _) => {
                return Concluded::old(reply::fault(Some(event), &error))
            }
        };
        Concluded::old(match reply {
            Reply::Fresh(grant) => {
                self.take_back(event, &grant, call).await;
                unconfirmed("the grant was taken back")
            }
            Reply::Elsewhere(found) => self.fetch(&call.key, found).await,
            Reply::Answer(answer) => answer,
            Reply::New | Reply::Waiting { .. } => reply::unreadable_answer(),
        })
    }

    /// A grant that too few replicas have might be forgotten, and given again; nobody executes
    /// under it.
    async fn take_back(&self, event: &Event, grant: &Grant, call: &Call) {
        if let Some(event) = undoing(event, grant) {
            let taken = Call::apply(call.key.clone(), &event, Room::Plenty);
            // If this fails too, the lease runs out, and the key is unknown.
            let _ = self.shared.caller.all(&[taken], false).await;
            self.taken_back(&call.key, &event).await;
        }
    }

    /// Fetches an outcome that was too large to be sent along.
    async fn fetch(&self, name: &Bytes, found: Elsewhere) -> Answer {
        let call = Call::outcome(name.clone(), found.digest.clone());
        let value = match self.shared.caller.one(call, true).await {
            Ok(value) => value,
            Err(error) => return reply::fault(None, &error),
        };
        match reply::outcome(value) {
            Ok(Some(data)) => found.answer(data),
            Ok(None) => Answer::Fault(Fault {
                code: FaultCode::Unavailable,
                detail: "the record changed while it was read".into(),
            }),
            Err(error) => Answer::Fault(error.into()),
        }
    }

    async fn look(&self, name: &Bytes, wait: &Wait) -> Result<Look, Answer> {
        let call = Call::wait(name.clone(), wait);
        let value = self.shared.caller.one(call, false).await;
        let value = value.map_err(|error| reply::fault(None, &error))?;
        Ok(match reply::answer(value, Asked::nothing()) {
            Reply::Waiting { lease_left_ms } => Look::Wait {
                lease_left_ms: lease_left_ms.min(POLL_MS),
            },
            Reply::Elsewhere(found) => Look::Over(self.fetch(name, found).await),
            Reply::Answer(answer) => Look::Over(answer),
            Reply::Fresh(grant) => Look::Over(Answer::Granted(grant)),
            Reply::New => Look::Over(reply::unreadable_answer()),
        })
    }
}

/// What is known of an operation that cannot be answered at once.
enum Unfinished {
    Reply(Reply),
    Error(redis::RedisError, Asked),
}

/// The answer, where a reply leaves nothing to do.
fn at_once(reply: Reply, confirmed: bool) -> Result<Concluded, Reply> {
    match reply {
        Reply::Fresh(grant) if confirmed => Ok(Concluded {
            answer: Answer::Granted(grant),
            fresh: true,
            new: false,
        }),
        Reply::New => Ok(Concluded {
            new: true,
            ..Concluded::old(reply::unreadable_answer())
        }),
        Reply::Answer(
            Answer::Granted(_)
            | Answer::Completed { .. }
            | Answer::Failed
            | Answer::Abandoned
            | Answer::Marked
            | Answer::Extended { .. },
        ) if !confirmed => Ok(Concluded::old(unconfirmed("what was written stays"))),
        Reply::Answer(answer) => Ok(Concluded::old(answer)),
        reply => Err(reply),
    }
}

/// An answer that may not be the last word yet; whether it is a grant that this very operation was
/// given.
struct Concluded {
    answer: Answer,
    /// A grant that nobody knows of so far.
    fresh: bool,
    /// Not asked to the end yet: it would make a new record.
    new: bool,
}

impl Concluded {
    fn old(answer: Answer) -> Concluded {
        Concluded {
            answer,
            fresh: false,
            new: false,
        }
    }
}

/// What takes a grant back that nobody executes under.
fn undoing(event: &Event, grant: &Grant) -> Option<Event> {
    let Event::Acquire(acquire) = event else {
        return None;
    };
    let owner = acquire.owner;
    // The execution before it may have been done: that must not be forgotten. Whoever retries
    // unknown ones loses nothing by it.
    if acquire.retries_unknown() && grant.attempt > 1 {
        return Some(Event::Abandon { owner });
    }
    Some(Event::Fail { owner })
}

fn unconfirmed(what: &str) -> Answer {
    Answer::Fault(Fault {
        code: FaultCode::Unavailable,
        detail: format!("Redis: not enough replicas confirmed in time; {what}"),
    })
}

impl Shared {
    fn room(&self) -> Room {
        match self.room.load(Ordering::Relaxed) {
            0 => Room::Plenty,
            1 => Room::NoGrants,
            _ => Room::FactsOnly,
        }
    }

    /// Asks all masters how they are.
    async fn look_after(&self) -> Result<Health, StoreError> {
        let health = match self.probe().await {
            // The connection may have been cut long ago; a new one tells more.
            Err(StoreError::Transient(_)) => self.probe().await?,
            other => other?,
        };
        if self.away.swap(false, Ordering::AcqRel) {
            // A connection that nobody used meanwhile may lead to the master of before, who does
            // not know yet that it has been replaced.
            self.caller.reconnect();
        }
        self.caller.heal();
        let room = match health.room {
            Room::Plenty => 0,
            Room::NoGrants => 1,
            Room::FactsOnly => 2,
        };
        self.room.store(room, Ordering::Relaxed);
        self.gate.set(health.distrust.as_deref());
        Ok(health)
    }

    async fn probe(&self) -> Result<Health, StoreError> {
        let side = self.caller.side();
        let (number, connection) = side.get().await.map_err(|e| store_error(&e))?;
        let health = health::probe(connection, self.connector.options()).await;
        if health.is_err() {
            self.away.store(true, Ordering::Release);
            side.broken(number);
        }
        health
    }
}

async fn watch(shared: Arc<Shared>, guard: Option<Arc<Redlock>>) {
    while !shared.closed.load(Ordering::Acquire) {
        tokio::time::sleep(HEALTH_INTERVAL).await;
        let _ = shared.look_after().await;
        if let Some(guard) = &guard {
            // What it finds stays with the nodes. Whether they are independent of the main Redis is
            // asked by `ready`.
            let _ = guard.look_after(&[], false).await;
        }
    }
}

#[async_trait]
impl Store for RedisStore {
    async fn apply(&self, operations: Vec<Operation>) -> Vec<Answer> {
        match self.ledger() {
            None => self.carry_out(operations, None).await,
            Some(ledger) => self.with_quotas(operations, &ledger).await,
        }
    }

    async fn wait(&self, wait: Wait) -> Answer {
        if self.shared.closed.load(Ordering::Acquire) {
            return Answer::TimedOut;
        }
        // Before the server is asked: what is over a cap costs it nothing.
        let Some(place) = self.waiters.enter(&wait.key) else {
            return Answer::TimedOut;
        };
        let name = self.shared.names.of(&wait.key);
        match self.look(&name, &wait).await {
            Ok(Look::Over(answer)) | Err(answer) => return answer,
            Ok(Look::Wait { .. }) if wait.wait_ms == 0 => return Answer::TimedOut,
            Ok(Look::Wait { .. }) => {}
        }
        let _listening = self.bell.listen(name.clone()).await;
        let look = || async {
            // A server that cannot be asked now may be there again before the time is up.
            self.look(&name, &wait).await.unwrap_or(Look::Wait {
                lease_left_ms: POLL_MS,
            })
        };
        place.wait(&wait, look).await
    }

    fn waits(&self) -> WaitCounts {
        self.waiters.counts()
    }

    async fn inspect(&self, key: &LookupKey) -> Result<Option<RecordView>, StoreError> {
        let call = Call::inspect(self.shared.names.of(key));
        let value = self.shared.caller.one(call, false).await;
        reply::record(value.map_err(|e| store_error(&e))?, key)
    }

    async fn list(&self, filter: ListFilter) -> Result<Page, StoreError> {
        scan::list(&self.shared.caller, &self.shared.names, &filter).await
    }

    async fn resolve(&self, resolve: Resolve) -> Result<Resolved, StoreError> {
        let held = self.lock_of(&resolve).await?;
        let call = Call::resolve(self.shared.names.of(&resolve.key), &resolve);
        let outcome = self.shared.caller.all(&[call], true).await.pop();
        let outcome = outcome.ok_or_else(|| StoreError::Transient("no answer".into()))?;
        let value = outcome.value.map_err(|e| store_error(&e))?;
        let resolved = reply::resolved(value, &resolve.key)?;
        if let Resolved::Done(_) = resolved {
            if let (Some(guard), Some(fence)) = (&self.guard, held) {
                guard.release(&resolve.key, Whose::Fence(fence)).await;
            }
            if let Some(ledger) = self.ledger() {
                ledger
                    .resolved(&self.shared.caller, &resolve, &resolved)
                    .await;
            }
            self.waiters.wake(&resolve.key);
            if !outcome.confirmed {
                return Err(StoreError::Transient(
                    "Redis: changed, but not enough replicas confirmed it in time".into(),
                ));
            }
        }
        Ok(resolved)
    }

    async fn sweep(&self, limit: usize) -> Result<Swept, StoreError> {
        let mut place = self.sweeping.lock().await;
        let Shared { caller, names, .. } = &*self.shared;
        let ledger = self.ledger();
        scan::sweep(caller, names, &mut place, limit, ledger.as_deref()).await
    }

    /// What is there already is counted in the background; what that misses, because the server is
    /// away, by the next pass of [`Store::sweep`] over all records.
    async fn set_quotas(&self, quotas: Quotas) -> Result<(), StoreError> {
        // From the beginning.
        *self.sweeping.lock().await = scan::Place::default();
        let ledger = quotas
            .any()
            .then(|| Arc::new(Ledger::new(quotas, &self.shared.names)));
        let counting = ledger.clone().map(|ledger| {
            let shared = Arc::clone(&self.shared);
            tokio::spawn(async move {
                let _ = scan::count(&shared.caller, &shared.names, &ledger).await;
            })
        });
        *self.ledger.write().unwrap_or_else(PoisonError::into_inner) = ledger;
        let mut before = self.counting.lock().await;
        if let Some(before) = std::mem::replace(&mut *before, counting) {
            before.abort();
        }
        Ok(())
    }

    async fn ready(&self) -> Result<Usage, StoreError> {
        if self.shared.closed.load(Ordering::Acquire) {
            return Err(StoreError::Transient("store is closed".into()));
        }
        let health = self.shared.look_after().await?.trusted()?;
        if let Some(guard) = &self.guard {
            guard.look_after(&health.run_ids, false).await?;
        }
        Ok(health.usage)
    }

    async fn close(&self) {
        self.shared.closed.store(true, Ordering::Release);
        self.shared.caller.close();
        if let Some(guard) = &self.guard {
            guard.close();
        }
        self.waiters.close();
        self.watching.iter().for_each(JoinHandle::abort);
    }
}

impl Drop for RedisStore {
    fn drop(&mut self) {
        self.waiters.close();
        self.watching.iter().for_each(JoinHandle::abort);
        if let Some(counting) = self.counting.get_mut() {
            counting.abort();
        }
    }
}

/// Waiters of this process need no message.
fn ends_an_execution(event: &Event, answer: &Answer) -> bool {
    !matches!(event, Event::Acquire(_) | Event::Extend { .. })
        && !matches!(answer, Answer::Fault(_))
}
