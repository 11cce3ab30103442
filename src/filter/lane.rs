//! Kong: everything that a root's tick sends leaves in one lane, one callout at a time, with all
//! that is due in it.
//!
//! The host frees the connection of a root's callout only if the root has none out when the answer
//! has been told (measured, `docs/kong-facts.md`). So a root sends no callout while another one of its
//! own is under way, and none from the answer to one: the next one leaves from the next tick. What does
//! not fit into a callout stays where it waits: leases, the outbox, the queue of observed streams.
//!
//! If a tick's callout has to wait because another caller is looking up the same name, the worker ends
//! (measured, the same page). So until the first callout of a root with a host name as its target was
//! answered, its tick sends nothing while another such callout of this worker is under way. Afterwards
//! Kong knows the name, and uses the old address while it looks it up again.

use super::callouts::{Cargo, Job, Purpose, Way};
use super::work::Work;
use super::{Filter, Root};
use crate::batch::{self, Room};
use crate::call::{Call, CallFailed, Callout, PROBE_TARGET};
use crate::clock::Moment;
use crate::host::{Host, Level, Map};
use crate::profile::Profile;
use idempotency_core::config;
use std::collections::VecDeque;

/// How many calls of observed streams may wait.
const MAX_DEFERRED: usize = 1024;

/// The lane of one root.
#[derive(Debug, Default)]
pub(super) struct Lane {
    /// A callout is out.
    out: bool,
    /// What must not share a callout: long outcomes, and what the service wants asked alone.
    alone: VecDeque<Job>,
    /// Calls of streams that are only observed; a call from the stream itself would hold it.
    deferred: VecDeque<Job>,
    /// Whether names can be resolved from the tick is still to be found out.
    probes: bool,
    /// The target is a host name, and no callout to it was answered.
    unresolved: bool,
    /// That it cannot be has been told.
    told: bool,
    /// The next callout is one of `alone`. They take turns with the rest, so that neither keeps the
    /// other from leaving.
    turn_of_alone: bool,
}

/// What the operator is told where the service's name cannot be resolved from the tick.
const UNRESOLVED: &str = "idempotency: the host name of service.target cannot be resolved outside of \
    requests, so no answer is stored, and every retry is refused until its lease is over: start Kong \
    with KONG_NGINX_WASM_PROXY_WASM_LUA_RESOLVER=on, or give an address";

impl Lane {
    /// A configuration has come. Kong resolves names for requests in one way, and for ticks in
    /// another, which may not be there: it is found out at once, not when the first answer is lost.
    pub fn configure(&mut self, profile: Profile, target: &str) {
        self.unresolved = profile == Profile::Kong && config::is_host_name(target);
        self.probes = self.unresolved;
        self.told = false;
    }

    /// A callout to the target was answered.
    pub fn resolved(&mut self) {
        self.unresolved = false;
    }

    /// Whether a callout to the target may have to look up its name.
    pub fn is_unresolved(&self) -> bool {
        self.unresolved
    }

    /// Whether nothing waits and nothing is out.
    pub fn is_idle(&self) -> bool {
        !self.probes && !self.out && self.alone.is_empty() && self.deferred.is_empty()
    }

    /// How many operations wait, but for those in the outbox.
    pub fn len(&self) -> usize {
        self.deferred.len()
    }

    /// A job that is to have a callout of its own.
    pub fn alone(&mut self, job: Job) {
        self.alone.push_back(job);
    }

    /// The callout is back, or could not be sent.
    pub fn returned(&mut self) {
        self.out = false;
    }
}

impl Root {
    /// What leaves now. Renewals are the first, because a lease ends; then settlements, because they
    /// unlock what was executed; then what is only observed.
    fn load_lane(&mut self, now: &Moment) -> Vec<Job> {
        if self.lane.out {
            return Vec::new();
        }
        if std::mem::take(&mut self.lane.turn_of_alone) {
            if let Some(job) = self.lane.alone.pop_front() {
                return vec![job];
            }
        }
        let most = self.settings().map(|s| s.service.batch.max_operations);
        let mut room = Room::new(most.unwrap_or(1));
        let mut jobs: Vec<Job> = Vec::new();
        let renewals = self.leases.due(now.most_ns, room.operations());
        for (owner, operation, trace) in renewals {
            room.take(0);
            jobs.push(Job {
                operation: Box::new(operation),
                trace,
                purpose: Purpose::Renewal(owner),
            });
        }
        let due = self.outbox.due(now.least_ns, |operation| {
            let bytes = batch::bytes(operation);
            batch::is_alone(bytes) || room.take(bytes)
        });
        for (id, operation, trace) in due {
            let alone = batch::is_alone(batch::bytes(&operation));
            let job = Job {
                operation: Box::new(operation),
                trace,
                purpose: Purpose::Outbox(id),
            };
            match alone {
                true => self.lane.alone(job),
                false => jobs.push(job),
            }
        }
        while !self.lane.deferred.is_empty() && room.take(0) {
            jobs.extend(self.lane.deferred.pop_front());
        }
        if jobs.is_empty() {
            return self.lane.alone.pop_front().into_iter().collect();
        }
        self.lane.turn_of_alone = true;
        jobs
    }
}

impl<H: Host> Filter<H> {
    /// Sends what is due, unless a callout of the root is out. Only from its tick.
    pub(super) fn run_lane(&mut self, root: u32, now: &Moment) {
        let Some(r) = self.roots.get_mut(&root) else {
            return;
        };
        // A name that needs no name server shows whether names can be resolved at all. That of the service
        // must wait until somebody needs it.
        if !r.lane.out && std::mem::take(&mut r.lane.probes) {
            r.lane.out = true;
            let timeout_ms = r.settings().map_or(0, |s| s.lane_timeout_ms);
            let sent = self.dispatch(root, PROBE_TARGET, &Callout::probe(timeout_ms));
            return match sent {
                Some(token) => self.sent(root, token, Cargo::Probe),
                None => self.returned(root, Way::Lane),
            };
        }
        if r.lane.unresolved && self.is_resolving() {
            return;
        }
        let Some(r) = self.roots.get_mut(&root) else {
            return;
        };
        let jobs = r.load_lane(now);
        if !jobs.is_empty() {
            r.lane.out = true;
            self.send_operations(root, jobs, Way::Lane);
        }
    }

    /// A callout of the lane has no answer.
    pub(super) fn lane_failed(&mut self, root: u32) {
        const WHY: &str = ":dispatch_status";
        let why = self.host.header(Map::CalloutHeaders, WHY).ok().flatten();
        let Some(r) = self.roots.get_mut(&root) else {
            return;
        };
        if why.as_deref() == Some(b"resolver failure") {
            r.lane.unresolved = true;
            if !std::mem::replace(&mut r.lane.told, true) {
                self.host.log(Level::Error, UNRESOLVED);
            }
        }
    }

    /// Puts a call of a stream that is only observed off until the next tick.
    pub(super) fn defer(&mut self, root: u32, context: u32, call: Call) {
        // (Nobody waits for what is only observed.)
        let Call::Operation(operation) = call else {
            return;
        };
        let job = self.job_of_stream(context, operation);
        match self.roots.get_mut(&root) {
            Some(r) if r.lane.deferred.len() < MAX_DEFERRED => r.lane.deferred.push_back(job),
            _ => self.work.push(Work::Answered {
                root,
                job,
                result: Err(CallFailed::NotSent),
            }),
        }
    }
}
