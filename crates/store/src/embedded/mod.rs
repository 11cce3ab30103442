//! The embedded store: durable, in a directory of its own, owned by one process.
//!
//! Two threads. The *applier* takes the operations in the order in which they arrive and decides
//! each by the [state machine](crate::machine); the *committer* writes what it decided, many
//! operations with one fsync, and lets the answers go. No answer, a replay included, leaves
//! before the commit that it read is on disk. No caller's thread ever touches the disk.
//!
//! Leases run on a monotonic clock. When the store starts, every executing lease gets its full
//! length anew, without a scan: a lease carries the number of the start in which it was given.

mod applier;
mod body;
mod boot;
mod commits;
mod committer;
mod creation;
#[cfg(test)]
mod damage_tests;
mod engine;
mod gauges;
mod jobs;
mod lack;
mod options;
mod private;
mod resync;
mod scrub;
mod space;
#[cfg(test)]
mod tests;
mod witness;

pub use options::{Durability, EmbeddedOptions};

use crate::clock::{Clock, Micros, SystemClock};
use crate::keys::PageBuilder;
use crate::machine::{self, Event, Room};
use crate::quota::{Quotas, Tenants};
use crate::record::{Slot, State};
use crate::search::{self, Found, FoundBuilder, Search};
use crate::store::{
    ListFilter, Page, RecordView, Resolve, Resolved, Store, StoreError, Swept, Usage,
};
use crate::waiters::{Look, WaitCounts, Waiters};
use crate::{codec, replay};
use applier::Applier;
use async_trait::async_trait;
use body::WaiterLook;
use boot::Boot;
use commits::Commits;
use committer::Committer;
use engine::{Engine, Head};
use gauges::Gauges;
use idempotency_protocol::{Answer, Fault, LookupKey, Operation, Outcome, Wait};
use jobs::{Job, ReplyTo};
use std::collections::HashMap;
use std::sync::mpsc::{channel, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use tokio::sync::oneshot;
use witness::Witness;

/// Most index entries that one sweep step looks at, so that operations get their turn in between.
const SWEEP_STEP: usize = 256;

/// The embedded store. See the [module](self).
pub struct Embedded {
    engine: Arc<Engine>,
    commits: Arc<Commits>,
    clock: Arc<dyn Clock>,
    gauges: Arc<Gauges>,
    waiters: Arc<Waiters>,
    boot: Boot,
    /// `None` once the store is being dropped.
    jobs: Mutex<Option<Sender<Job>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Embedded {
    /// Opens the directory, or creates it. Blocks while it recovers what a crash left: call it
    /// before the runtime serves, or with `spawn_blocking`.
    ///
    /// # Errors
    ///
    /// [`StoreError::Permanent`] if another process has the directory open, if it cannot be read
    /// or written, if it is damaged, or if a newer version has written it. [`StoreError::Transient`]
    /// while the disk or the file descriptors do not suffice: it may be tried again.
    pub fn open(options: EmbeddedOptions) -> Result<Embedded, StoreError> {
        Embedded::open_with_clock(options, |floor| {
            Arc::new(SystemClock::starting_after(floor))
        })
    }

    /// The same on another clock; for tests. `clock` gets the newest time that the store has
    /// seen, before which the clock must not start.
    ///
    /// # Errors
    ///
    /// As [`Embedded::open`].
    pub fn open_with_clock(
        options: EmbeddedOptions,
        clock: impl FnOnce(Micros) -> Arc<dyn Clock>,
    ) -> Result<Embedded, StoreError> {
        let (mut engine, head) = Engine::open(&options)?;
        let mut witness = Witness::new(&options.path);
        witness.check(&head)?;
        let mut tenants = Tenants::new(options.quotas);
        engine.count(&mut tenants, |_| false)?;
        let mut space = space::Space::new(options.path, options.max_bytes, options.min_free_bytes);
        engine.notes.extend(space.full(&head));
        let engine = Arc::new(engine);
        let clock = clock(head.last_seen);
        let head = Head {
            boot: head.boot + 1,
            last_seen: clock.now(),
            ..head
        };
        // On disk before the first lease of this start is given.
        engine.commit(HashMap::new(), head)?;
        engine.sync()?;
        witness.note_now(&head);

        let commits = Arc::new(Commits::new());
        let gauges = Arc::new(Gauges::default());
        let waiters = Waiters::new(options.waiters);
        gauges.set(&head, space.room(&head));
        let applier = Applier::new(
            Arc::clone(&engine),
            Arc::clone(&commits),
            Arc::clone(&clock),
            Arc::clone(&gauges),
            space,
            head,
            tenants,
        );
        let (jobs, queue) = channel();
        let committer = Committer {
            commits: Arc::clone(&commits),
            engine: Arc::clone(&engine),
            waiters: Arc::clone(&waiters),
            mode: options.durability,
            witness,
        };
        let committer = spawn("store-committer", move || committer.run())?;
        let applier = spawn("store-applier", move || applier.run(&queue))?;
        Ok(Embedded {
            engine,
            commits,
            clock,
            gauges,
            waiters,
            boot: Boot::of(&head),
            jobs: Mutex::new(Some(jobs)),
            threads: Mutex::new(vec![applier, committer]),
        })
    }

    /// Looks, without touching the files, whether space and file descriptors suffice for opening.
    ///
    /// # Errors
    ///
    /// [`StoreError::Transient`]: what is lacking.
    pub fn lack(options: &EmbeddedOptions) -> Result<(), StoreError> {
        lack::descriptors()?;
        lack::space(options)
    }

    /// What there is to say about how it was opened; for the log.
    pub fn notes(&self) -> &[String] {
        &self.engine.notes
    }

    /// Number of waits now.
    pub fn waiting(&self) -> usize {
        self.waiters.counts().now
    }

    async fn ask<T>(&self, job: impl FnOnce(ReplyTo<T>) -> Job) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        let jobs = self
            .jobs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let closed = || StoreError::Transient("store is closed".into());
        jobs.ok_or_else(closed)?
            .send(job(reply))
            .map_err(|_| closed())?;
        answer.await.unwrap_or_else(|_| Err(self.gone()))
    }

    /// Why an answer never came.
    fn gone(&self) -> StoreError {
        let closed = || StoreError::Transient("store is closed".into());
        self.commits.failure().cloned().unwrap_or_else(closed)
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, StoreError> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(work)
        .map_err(|e| StoreError::Transient(format!("cannot start a thread: {e}")))
}

#[async_trait]
impl Store for Embedded {
    async fn apply(&self, operations: Vec<Operation>) -> Vec<Answer> {
        let events = operations.into_iter().map(Event::prepare).collect();
        self.apply_events(events).await
    }

    async fn apply_events(&self, events: Vec<(LookupKey, Event)>) -> Vec<Answer> {
        let count = events.len();
        match self.ask(|reply| Job::Apply(events, reply)).await {
            Ok(parts) => {
                let mut answers = Vec::with_capacity(count);
                for part in parts {
                    answers.push(part.whole().await);
                }
                answers
            }
            Err(error) => vec![Answer::Fault(Fault::from(error)); count],
        }
    }

    async fn wait(&self, wait: Wait) -> Answer {
        let look = || async {
            match self.ask(|reply| Job::Look(wait.clone(), reply)).await {
                Ok(WaiterLook::Wait { lease_left_ms }) => Look::Wait { lease_left_ms },
                Ok(WaiterLook::Over(part)) => Look::Over(part.whole().await),
                Err(error) => Look::Over(Answer::Fault(error.into())),
            }
        };
        self.waiters.wait(&wait, look).await
    }

    fn waits(&self) -> WaitCounts {
        self.waiters.counts()
    }

    async fn inspect(&self, key: &LookupKey) -> Result<Option<RecordView>, StoreError> {
        self.ask(|reply| Job::Inspect(key.clone(), reply)).await
    }

    /// Reads what is on disk, outside the order of operations and without holding any of them up.
    async fn list(&self, filter: ListFilter) -> Result<Page, StoreError> {
        let context = self.boot.context(self.clock.now(), Room::Plenty);
        let engine = Arc::clone(&self.engine);
        let scan = move || {
            let mut page = PageBuilder::new(&filter);
            engine.scan(
                &crate::keys::prefix(&filter),
                filter.after.as_deref(),
                |key, slot| {
                    let wanted = !page.is_full();
                    if wanted {
                        page.offer(key, &slot, &context);
                    }
                    wanted
                },
            )?;
            Ok(page.finish())
        };
        let failed = |e| StoreError::Permanent(format!("listing failed: {e}"));
        tokio::task::spawn_blocking(scan).await.map_err(failed)?
    }

    /// As [`Store::list`], outside the order of operations.
    async fn search(&self, search: Search) -> Result<Found, StoreError> {
        if let Some(found) = search::exactly(self, &search).await? {
            return Ok(found);
        }
        let context = self.boot.context(self.clock.now(), Room::Plenty);
        let engine = Arc::clone(&self.engine);
        let scan = move || {
            let mut found = FoundBuilder::new(&search);
            engine.visit(
                &search.prefix(),
                search.after.as_deref(),
                |bytes, encoded| {
                    let wanted = !found.is_full();
                    if let Some(key) = wanted.then(|| found.look(bytes)).flatten() {
                        let slot = codec::decode(encoded);
                        found.offer(machine::view(slot.as_ref(), &context, &key));
                    }
                    wanted
                },
            )?;
            Ok(found.finish())
        };
        let failed = |e| StoreError::Permanent(format!("searching failed: {e}"));
        tokio::task::spawn_blocking(scan).await.map_err(failed)?
    }

    async fn stored(&self, key: &LookupKey) -> Result<Option<Outcome>, StoreError> {
        let stored = self.ask(|reply| Job::Stored(key.clone(), reply)).await?;
        let Some((mut outcome, reader)) = stored else {
            return Ok(None);
        };
        let read = move || {
            if let Some(reader) = reader {
                outcome.data = reader.read()?;
            }
            replay::outcome(outcome).map(Some)
        };
        let failed = |e| StoreError::Permanent(format!("reading a body failed: {e}"));
        tokio::task::spawn_blocking(read).await.map_err(failed)?
    }

    async fn export(&self, key: &LookupKey) -> Result<Option<Slot>, StoreError> {
        let exported = self.ask(|reply| Job::Export(key.clone(), reply)).await?;
        let (mut slot, reader) = match exported {
            Some((slot, Some(reader))) => (slot, reader),
            exported => return Ok(exported.map(|(slot, _)| slot)),
        };
        let read = move || {
            let data = reader.read()?;
            if let Some(execution) = slot.execution.as_mut() {
                if let State::Completed(outcome) | State::Settled(_, outcome) = &mut execution.state
                {
                    outcome.data = data;
                }
            }
            Ok(Some(slot))
        };
        let failed = |e| StoreError::Permanent(format!("reading a body failed: {e}"));
        tokio::task::spawn_blocking(read).await.map_err(failed)?
    }

    async fn replace(
        &self,
        key: &LookupKey,
        replaces: u64,
        slot: Option<Slot>,
    ) -> Result<bool, StoreError> {
        let slot = slot.map(Box::new);
        self.ask(|reply| Job::Replace(key.clone(), replaces, slot, reply))
            .await
    }

    async fn scrub(&self) -> Result<bool, StoreError> {
        // What was answered is in the engine, and what is deleted from now on is not meant.
        let engine = Arc::clone(&self.engine);
        let failed = |e| StoreError::Permanent(format!("compacting failed: {e}"));
        let scrubbed = tokio::task::spawn_blocking(move || engine.scrub()).await;
        scrubbed.map_err(failed)?.map(|()| true)
    }

    async fn resolve(&self, resolve: Resolve) -> Result<Resolved, StoreError> {
        self.ask(|reply| Job::Resolve(resolve, reply)).await
    }

    async fn sweep(&self, limit: usize) -> Result<Swept, StoreError> {
        let mut total = Swept::default();
        let mut left = limit;
        loop {
            let step = left.min(SWEEP_STEP);
            let swept = self.ask(|reply| Job::Sweep(step, reply)).await?;
            total.expired += swept.expired;
            total.lapsed += swept.lapsed;
            total.slots += swept.slots;
            total.more = swept.more;
            left -= step;
            if !swept.more || left == 0 {
                return Ok(total);
            }
        }
    }

    /// Reads all records, and holds operations up meanwhile.
    async fn set_quotas(&self, quotas: Quotas) -> Result<(), StoreError> {
        self.ask(|reply| Job::Quotas(quotas, reply)).await
    }

    async fn ready(&self) -> Result<Usage, StoreError> {
        match self.commits.failure() {
            Some(error) => Err(error.clone()),
            None if self
                .jobs
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .is_none() =>
            {
                Err(StoreError::Transient("store is closed".into()))
            }
            None => Ok(self.gauges.usage()),
        }
    }

    async fn broken(&self) -> StoreError {
        self.commits.broken().await
    }

    async fn close(&self) {
        self.waiters.close();
        // What was sent before is answered before; what comes later finds no applier.
        let _ = self.ask(Job::Close).await;
        self.jobs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
    }
}

impl Drop for Embedded {
    /// Finishes what is in flight and makes it durable. Blocks for one commit, unless the store
    /// was closed before.
    fn drop(&mut self) {
        self.waiters.close();
        self.jobs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let threads = &mut self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        for thread in threads.drain(..) {
            let _ = thread.join();
        }
    }
}
