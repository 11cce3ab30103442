//! The root's tick: what is due by the clock.

use super::callouts::{Job, Purpose};
use super::Filter;
use crate::clock::Moment;
use crate::host::{Host, Level};
use crate::profile::Profile;
use crate::stream::{Event, Flow};

/// How long a request may wait for a body in a VM that has never seen one, before the host's
/// settings are held to be wrong.
const BODY_PATIENCE_NS: u64 = 3_000_000_000;

impl<H: Host> Filter<H> {
    /// The root's tick: renewals, retries, and streams whose body never comes.
    pub fn on_tick(&mut self, context: u32) {
        self.begin(context);
        let now = self.now();
        if let Some(root) = self.roots.get_mut(&context) {
            if !root.is_idle() {
                match self.profile {
                    Profile::Envoy => self.send_due(context, &now),
                    Profile::Kong => self.run_lane(context, &now),
                }
            }
        }
        self.check_bodies_come(context, &now);
        self.finish(Flow::Continue);
        let mut leaving = false;
        if let Some(root) = self.roots.get_mut(&context) {
            root.metrics.tick(&self.host);
            root.tell_lengths(&self.host, self.profile);
            leaving = root.leaving;
        }
        if leaving && self.is_idle(context) {
            if let Some(root) = self.roots.get_mut(&context) {
                root.leaving = false;
            }
            self.host.done();
        }
    }

    fn send_due(&mut self, context: u32, now: &Moment) {
        let Some(root) = self.roots.get_mut(&context) else {
            return;
        };
        for (owner, operation, trace) in root.leases.due(now.most_ns, usize::MAX) {
            let job = Job {
                operation: Box::new(operation),
                trace,
                purpose: Purpose::Renewal(owner),
            };
            self.ask(context, job);
        }
        self.flush_outbox(context, now.least_ns);
        // What waits too long, and what a lost callback has left.
        self.turn(context);
    }

    /// Envoy delivers no body callback after a paused header callback unless the plugin says
    /// `allow_on_headers_stop_iteration`; the request would hang without a word.
    fn check_bodies_come(&mut self, root: u32, now: &Moment) {
        if self.bodies_come || self.profile == Profile::Kong {
            return;
        }
        let mut stuck: Vec<u32> = Vec::new();
        for (id, e) in self.streams.iter_mut() {
            if e.root != root || !e.stream.is_hashing() {
                continue;
            }
            match &mut e.body_expected_ns {
                Some(since @ 0) => *since = now.least_ns,
                Some(since) if now.least_ns.saturating_sub(*since) > BODY_PATIENCE_NS => {
                    stuck.push(*id);
                }
                _ => {}
            }
        }
        for context in stuck {
            self.host.log(
                Level::Error,
                "idempotency: no request body arrives while its headers are held; set \
                 allow_on_headers_stop_iteration in the plugin configuration",
            );
            self.feed(context, Event::BodiesNeverCome);
        }
    }
}
