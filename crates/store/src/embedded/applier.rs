//! The applier: one thread that puts all operations into one order, and decides each by the state
//! machine.
//!
//! It reads what is on disk through the overlay of what is on its way there. An answer that tells
//! only of what is durable leaves at once; every other one is held until its commit is done. So a
//! replay never waits for an fsync that does not concern it, and never tells of a write that a
//! power cut could undo.

use super::body::{ApplierAnswer, BodyReader, WaiterLook};
use super::boot::Boot;
use super::commits::{Addition, Alarm, Commits, Held};
use super::engine::{After, Engine, Footprint, Head, Loaded, Write};
use super::gauges::Gauges;
use super::jobs::{held, refuse, Job, ReplyTo, Stored};
use super::space;
use crate::clock::Clock;
use crate::codec;
use crate::keys;
use crate::machine::{self, Context, Event, Reply, SweepStep, WaitStep};
use crate::quota::{Quotas, Tenants};
use crate::record::Slot;
use crate::replay;
use crate::store::{RecordView, Resolve, Resolved, StoreError, Swept};
use bytes::Bytes;
use idempotency_protocol::{Answer, LookupKey, Wait};
use std::collections::{HashMap, VecDeque};
use std::sync::mpsc::Receiver;
use std::sync::Arc;

/// A slot, and where its outcome is if that is not in it.
type Exported = (Slot, Option<BodyReader>);

/// A slot that is on its way to disk, or was until a moment ago.
struct Pending {
    slot: Option<Slot>,
    footprint: Option<Footprint>,
    generation: u64,
}

/// What the applier knows of one key.
struct KnownKey {
    slot: Option<Slot>,
    footprint: Option<Footprint>,
    /// Everything known of the key is durable.
    durable: bool,
    /// There is a record, and this build cannot read it.
    illegible: bool,
}

impl KnownKey {
    /// # Errors
    ///
    /// The record cannot be read, so nothing can be said of it, and it must not be changed.
    fn legible(self) -> Result<KnownKey, StoreError> {
        match self.illegible {
            true => Err(StoreError::Permanent(
                "the record is damaged, or was written by a later version".to_owned(),
            )),
            false => Ok(self),
        }
    }
}

/// The writes of one job, and what they make of the store's own numbers.
#[derive(Default)]
struct Work {
    addition: Addition,
    /// The answer tells of something that is not durable yet.
    waits: bool,
}

pub(super) struct Applier {
    pub engine: Arc<Engine>,
    pub commits: Arc<Commits>,
    pub clock: Arc<dyn Clock>,
    pub gauges: Arc<Gauges>,
    pub space: space::Space,
    boot: Boot,
    pub head: Head,
    tenants: Tenants,
    overlay: HashMap<Vec<u8>, Pending>,
    /// Keys of the overlay by batch, oldest first.
    written: VecDeque<(u64, Vec<u8>)>,
    /// Where the last sweep ended. Nothing is ever filed before it: new entries are due now or
    /// later. Starting at the beginning instead would mean to pass all that was ever deleted.
    swept_to: Bytes,
}

impl Applier {
    pub fn new(
        engine: Arc<Engine>,
        commits: Arc<Commits>,
        clock: Arc<dyn Clock>,
        gauges: Arc<Gauges>,
        space: space::Space,
        head: Head,
        tenants: Tenants,
    ) -> Applier {
        Applier {
            engine,
            commits,
            clock,
            gauges,
            space,
            boot: Boot::of(&head),
            head,
            tenants,
            overlay: HashMap::new(),
            written: VecDeque::new(),
            swept_to: Bytes::new(),
        }
    }

    /// Works until the store is closed or dropped.
    pub fn run(mut self, jobs: &Receiver<Job>) {
        let _alarm = Alarm(Arc::clone(&self.commits));
        let mut closing: Option<Held> = None;
        while let Ok(job) = jobs.recv() {
            self.forget_durable();
            if let Job::Close(reply) = job {
                closing = Some(held(reply, ()));
                break;
            }
            self.handle(job);
        }
        let last = Addition {
            head: Some(Head {
                last_seen: self.clock.now(),
                ..self.head
            }),
            held: closing,
            last: true,
            ..Addition::default()
        };
        self.commits.append(last);
    }

    fn handle(&mut self, job: Job) {
        if let Some(error) = self.commits.failure().cloned() {
            return refuse(job, error);
        }
        let mut work = Work::default();
        match job {
            Job::Apply(events, reply) => {
                let answers = events
                    .into_iter()
                    .map(|(key, event)| self.apply(key, &event, &mut work));
                let answers = answers.collect();
                self.finish(work, reply, Ok(answers));
            }
            Job::Look(wait, reply) => {
                let found = self.look(&wait, &mut work);
                self.finish(work, reply, found);
            }
            Job::Inspect(key, reply) => {
                let found = self.inspect(&key, &mut work);
                self.finish(work, reply, found);
            }
            Job::Stored(key, reply) => {
                let stored = self.stored(&key, &mut work);
                self.finish(work, reply, stored);
            }
            Job::Export(key, reply) => {
                let exported = self.export(&key, &mut work);
                self.finish(work, reply, exported);
            }
            Job::Replace(key, replaces, slot, reply) => {
                let replaced = self.replace(key, replaces, slot.map(|slot| *slot), &mut work);
                self.finish(work, reply, replaced);
            }
            Job::Resolve(request, reply) => {
                let resolved = self.resolve(&request, &mut work);
                self.finish(work, reply, resolved);
            }
            Job::Sweep(limit, reply) => {
                let swept = self.sweep(limit, &mut work);
                self.finish(work, reply, swept);
            }
            Job::Quotas(quotas, reply) => {
                let _ = reply.send(self.set_quotas(quotas));
            }
            Job::Close(_) => {}
        }
    }

    fn set_quotas(&mut self, quotas: Quotas) -> Result<(), StoreError> {
        let mut tenants = Tenants::new(quotas);
        let newer = |key: &[u8]| self.overlay.contains_key(key);
        self.engine.count(&mut tenants, newer)?;
        for (key, pending) in &self.overlay {
            let footprint = pending.footprint.unwrap_or_default();
            tenants.add(key, footprint.charge());
        }
        self.tenants = tenants;
        Ok(())
    }

    /// Answers at once if all that the answer tells of is durable, else with the commit.
    fn finish<T: Send + 'static>(
        &mut self,
        mut work: Work,
        reply: ReplyTo<T>,
        result: Result<T, StoreError>,
    ) {
        let writes = !work.addition.writes.is_empty() || work.addition.head.is_some();
        if !writes && !work.waits {
            let _ = reply.send(result);
            return;
        }
        work.addition.held = Some(match result {
            Ok(value) => held(reply, value),
            Err(error) => Box::new(move |_| {
                let _ = reply.send(Err(error));
            }),
        });
        if writes {
            self.head.last_seen = self.head.last_seen.max(self.clock.now());
            work.addition.head = Some(self.head);
        }
        let keys: Vec<Vec<u8>> = work
            .addition
            .writes
            .iter()
            .map(|(k, _)| k.clone())
            .collect();
        // Before the answer can leave, so that a caller that has its answer is already counted in the gauges.
        self.gauges.set(&self.head, self.space.room(&self.head));
        let generation = self.commits.append(work.addition);
        for key in keys {
            if let Some(pending) = self.overlay.get_mut(&key) {
                pending.generation = generation;
            }
            self.written.push_back((generation, key));
        }
    }

    fn context(&mut self) -> Context {
        let room = self.space.room(&self.head);
        self.boot.context(self.clock.now(), room)
    }

    fn apply(&mut self, key: LookupKey, event: &Event, work: &mut Work) -> ApplierAnswer {
        let bytes = key.to_bytes();
        let known = match self.read(&bytes, work) {
            Ok(known) => known,
            Err(error) => return ApplierAnswer::Whole(replay::unread(&error)),
        };
        if known.illegible {
            return ApplierAnswer::Whole(replay::illegible(event));
        }
        let mut context = self.context();
        if self.tenants.counts() && matches!(event, Event::Acquire(_)) {
            context.used_up = self.tenants.used_up(&key.tenant);
        }
        let applied = machine::apply(known.slot.as_ref(), &context, event);
        if let Some(slot) = applied.change {
            self.write(bytes.clone(), known.footprint, Some(slot), work);
            work.addition.changed.push(key);
        }
        self.answer(&bytes, applied.reply)
    }

    fn answer(&self, key: &[u8], reply: Reply) -> ApplierAnswer {
        match reply {
            Reply::Answer(answer) => ApplierAnswer::Whole(answer),
            Reply::Replay(found) if found.outcome.data.is_none() => {
                ApplierAnswer::Bodyless(found, self.engine.body(key))
            }
            Reply::Replay(found) => ApplierAnswer::Whole(replay::answer(found)),
        }
    }

    fn look(&mut self, wait: &Wait, work: &mut Work) -> Result<WaiterLook, StoreError> {
        let bytes = wait.key.to_bytes();
        let known = self.read(&bytes, work)?;
        if known.illegible {
            // The acquire that follows is told what there is to tell.
            return Ok(WaiterLook::Over(ApplierAnswer::Whole(Answer::Changed)));
        }
        Ok(
            match machine::wait(known.slot.as_ref(), &self.context(), wait) {
                WaitStep::Over(reply) => WaiterLook::Over(self.answer(&bytes, reply)),
                WaitStep::Wait { lease_left_ms } => WaiterLook::Wait { lease_left_ms },
            },
        )
    }

    fn inspect(
        &mut self,
        key: &LookupKey,
        work: &mut Work,
    ) -> Result<Option<RecordView>, StoreError> {
        let known = self.read(&key.to_bytes(), work)?.legible()?;
        Ok(machine::view(known.slot.as_ref(), &self.context(), key))
    }

    fn stored(&mut self, key: &LookupKey, work: &mut Work) -> Result<Option<Stored>, StoreError> {
        let bytes = key.to_bytes();
        let known = self.read(&bytes, work)?.legible()?;
        let outcome = machine::stored(known.slot.as_ref(), &self.context());
        Ok(outcome.map(|outcome| {
            let elsewhere = outcome.data.is_none().then(|| self.engine.body(&bytes));
            (outcome, elsewhere)
        }))
    }

    fn export(&mut self, key: &LookupKey, work: &mut Work) -> Result<Option<Exported>, StoreError> {
        let bytes = key.to_bytes();
        let known = self.read(&bytes, work)?.legible()?;
        Ok(known.slot.map(|slot| {
            let is_elsewhere = codec::outcome(&slot).is_some_and(|o| o.data.is_none());
            let reader = is_elsewhere.then(|| self.engine.body(&bytes));
            (slot, reader)
        }))
    }

    fn replace(
        &mut self,
        key: LookupKey,
        replaces: u64,
        slot: Option<Slot>,
        work: &mut Work,
    ) -> Result<bool, StoreError> {
        let bytes = key.to_bytes();
        let known = self.read(&bytes, work)?.legible()?;
        if known.slot.as_ref().map_or(0, |slot| slot.version) != replaces {
            return Ok(false);
        }
        // What is moved here may have been due long ago, and sweeps do not look back.
        let due = slot.as_ref().map(|slot| slot.due().to_be_bytes());
        if let Some(due) = due.filter(|due| due.as_slice() < &*self.swept_to) {
            self.swept_to = Bytes::copy_from_slice(&due);
        }
        self.write(bytes, known.footprint, slot, work);
        work.addition.changed.push(key);
        Ok(true)
    }

    fn resolve(&mut self, request: &Resolve, work: &mut Work) -> Result<Resolved, StoreError> {
        let bytes = request.key.to_bytes();
        let known = self.read(&bytes, work)?.legible()?;
        let (change, resolved) = machine::resolve(known.slot.as_ref(), &self.context(), request);
        if let Some(slot) = change {
            self.write(bytes, known.footprint, Some(slot), work);
            work.addition.changed.push(request.key.clone());
        }
        Ok(resolved)
    }

    fn sweep(&mut self, limit: usize, work: &mut Work) -> Result<Swept, StoreError> {
        let context = self.context();
        let entries = self.engine.due(&self.swept_to, context.now, limit)?;
        let mut swept = Swept {
            more: entries.len() >= limit,
            ..Swept::default()
        };
        for entry in entries {
            // The index on disk lags behind the overlay: the slot itself decides.
            let known = self.read(&entry.key, work)?;
            if let Some(slot) = &known.slot {
                let step = machine::sweep(slot, &context);
                let key = entry.key.to_vec();
                swept.slots += usize::from(step != SweepStep::Keep);
                match step {
                    SweepStep::Keep => {}
                    SweepStep::Move(slot) => self.write(key, known.footprint, Some(slot), work),
                    SweepStep::Lapse(slot) => {
                        swept.lapsed += 1;
                        work.addition.changed.extend(keys::from_bytes(&key));
                        self.write(key, known.footprint, Some(slot), work);
                    }
                    SweepStep::Expire(slot) => {
                        swept.expired += 1;
                        self.write(key, known.footprint, Some(slot), work);
                    }
                    SweepStep::Remove { expired } => {
                        swept.expired += usize::from(expired);
                        self.write(key, known.footprint, None, work);
                    }
                }
            }
            // An entry may still be filed at this very moment: those are looked at again.
            self.swept_to = if entry.due < context.now {
                entry.entry
            } else {
                Bytes::copy_from_slice(&context.now.to_be_bytes())
            };
        }
        // Store time must not run backwards over a restart, even if nothing is ever written.
        if context.now.saturating_sub(self.head.last_seen) > 1_000_000 {
            self.head.last_seen = context.now;
            work.addition.head = Some(self.head);
        }
        Ok(swept)
    }

    /// Reads a slot, and notes if what was read is not durable yet.
    fn read(&mut self, key: &[u8], work: &mut Work) -> Result<KnownKey, StoreError> {
        let known = match self.overlay.get(key) {
            Some(pending) => KnownKey {
                slot: pending.slot.clone(),
                footprint: pending.footprint,
                durable: pending.generation <= self.commits.durable(),
                illegible: false,
            },
            None => {
                let loaded = self.engine.load(key)?;
                let illegible = matches!(loaded, Loaded::Illegible);
                let (slot, footprint) = match loaded {
                    Loaded::Slot(slot, footprint) => (Some(*slot), Some(footprint)),
                    Loaded::Nothing | Loaded::Illegible => (None, None),
                };
                KnownKey {
                    slot,
                    footprint,
                    durable: true,
                    illegible,
                }
            }
        };
        work.waits |= !known.durable;
        Ok(known)
    }

    fn write(
        &mut self,
        key: Vec<u8>,
        before: Option<Footprint>,
        slot: Option<Slot>,
        work: &mut Work,
    ) {
        let after = slot.as_ref().map(|slot| {
            let encoded = codec::encode(slot);
            let footprint = Footprint::of(&key, slot, encoded.len());
            let body = codec::outcome(slot)
                .filter(|_| footprint.separate)
                .and_then(|outcome| outcome.data.clone());
            After {
                footprint,
                encoded,
                body,
            }
        });
        let write = Write { before, after };
        let footprint = write.footprint();
        let (old, new) = (before.unwrap_or_default(), footprint.unwrap_or_default());
        if let Some(tenant) = keys::tenant(&key) {
            self.tenants.change(tenant, old.charge(), new.charge());
        }
        self.head.bytes = self
            .head
            .bytes
            .saturating_sub(old.bytes)
            .saturating_add(new.bytes);
        self.head.records = self
            .head
            .records
            .saturating_sub(u64::from(old.record))
            .saturating_add(u64::from(new.record));
        // The generation is known when the job is done; until then nothing of it is durable.
        let pending = Pending {
            slot,
            footprint,
            generation: u64::MAX,
        };
        self.overlay.insert(key.clone(), pending);
        work.addition.writes.push((key, write));
    }

    /// Takes out of the overlay what can be read from disk.
    fn forget_durable(&mut self) {
        let durable = self.commits.durable();
        while self
            .written
            .front()
            .is_some_and(|(generation, _)| *generation <= durable)
        {
            let Some((generation, key)) = self.written.pop_front() else {
                return;
            };
            if self
                .overlay
                .get(&key)
                .is_some_and(|p| p.generation == generation)
            {
                self.overlay.remove(&key);
            }
        }
    }
}
