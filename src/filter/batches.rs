//! Operations that share a callout: the glue between the scheduler ([`crate::batch`]) and the
//! host. The host is asked for a callback by way of a shared queue, whose name nobody else has: it
//! calls the root back in the same turn of its event loop, after everything that is ready now.

use super::callouts::{Job, Purpose, Way};
use super::Filter;
use crate::batch::{self, Arrival, Rank};
use crate::call::CallFailed;
use crate::host::Host;
use crate::stream::Flow;
use idempotency_protocol::Operation;

impl<H: Host> Filter<H> {
    /// Sends an operation, with others or alone.
    pub(super) fn ask(&mut self, root: u32, job: Job) {
        let Some(r) = self.roots.get_mut(&root) else {
            return self.operations_failed(root, vec![job], CallFailed::NotSent, Way::Alone);
        };
        let bytes = batch::bytes(&job.operation);
        let rank = rank(&job);
        let (clock, host) = (&self.clock, &self.host);
        let now_ns = || clock.now(host).least_ns;
        match r.batches.arrive(job, rank, bytes, now_ns) {
            Arrival::Alone(job) => {
                let jobs = self.spare.of(job);
                self.send_operations(root, jobs, Way::Alone);
            }
            Arrival::Leaves(job) => {
                let jobs = self.spare.of(job);
                self.send_operations(root, jobs, Way::Batch);
            }
            Arrival::Waits { call: true } => self.ask_for_turn(root),
            Arrival::Waits { call: false } => {}
        }
    }

    /// A callout with operations is back, or could not be sent.
    pub(super) fn returned(&mut self, root: u32, way: Way) {
        let Some(r) = self.roots.get_mut(&root) else {
            return;
        };
        match way {
            Way::Alone => {}
            Way::Batch => {
                if r.batches.returned() {
                    self.ask_for_turn(root);
                }
            }
            Way::Lane => r.lane.returned(),
        }
    }

    fn ask_for_turn(&mut self, root: u32) {
        let Some(queue) = self.queue(root) else {
            return self.share_no_more(root);
        };
        if self.host.enqueue(queue).is_err() {
            self.share_no_more(root);
        }
    }

    /// The root's own queue, registered when it is first needed.
    fn queue(&mut self, root: u32) -> Option<u32> {
        if let Some(queue) = self.roots.get(&root)?.queue {
            return Some(queue);
        }
        let name = self.owners.next(&self.host)?;
        let name = format!("idempotency-{}", hex::encode(name.0));
        self.enter(root).then_some(())?;
        let queue = self.host.register_queue(&name).ok()?;
        self.roots.get_mut(&root)?.queue = Some(queue);
        Some(queue)
    }

    /// A host without queues: one callout for each operation.
    fn share_no_more(&mut self, root: u32) {
        let left = self.roots.get_mut(&root).map(|r| r.batches.give_up());
        for job in left.unwrap_or_default() {
            self.send_operations(root, vec![job], Way::Alone);
        }
    }

    /// The host calls back: what has gathered leaves.
    pub fn on_queue_ready(&mut self, context: u32, queue: u32) {
        self.begin(context);
        if self.roots.get(&context).and_then(|r| r.queue) != Some(queue) {
            return;
        }
        self.host.dequeue(queue);
        self.turn(context);
        self.finish(Flow::Continue);
    }

    /// Sends what has gathered, or gives up what has waited too long.
    pub(super) fn turn(&mut self, root: u32) {
        let now_ns = self.now().least_ns;
        let Some(r) = self.roots.get_mut(&root) else {
            return;
        };
        let timeout_ms = r.settings().map_or(0, |s| s.service.timeout_ms);
        let turn = r.batches.turn(now_ns, timeout_ms.saturating_mul(1_000_000));
        if !turn.expired.is_empty() {
            self.operations_failed(root, turn.expired, CallFailed::NotSent, Way::Alone);
        }
        if !turn.leaves.is_empty() {
            self.send_operations(root, turn.leaves, Way::Batch);
        }
        if turn.call {
            self.ask_for_turn(root);
        }
    }
}

fn rank(job: &Job) -> Rank {
    match (&job.purpose, &*job.operation) {
        (Purpose::Outbox(_) | Purpose::Renewal(_), _) => Rank::Background,
        (_, Operation::Acquire(_) | Operation::Redeem(_)) => Rank::Acquire,
        _ => Rank::Settlement,
    }
}
