//! Many clients at once, each with one key after the other.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{Clients, Request};
use crate::clock;
use crate::history::{Event, Invoke, OpId, Recorder, Return};
use crate::workload::{Attempt, Script, Scripts};

/// What all clients share.
#[derive(Debug)]
pub struct Drive {
    /// Their connections.
    pub clients: Clients,
    /// What they do.
    pub scripts: Scripts,
    /// Where it is noted.
    pub recorder: Recorder,
    next_op: AtomicU64,
    next_script: AtomicU64,
    /// Which tenants have used the keys: key, tenant.
    used: Mutex<BTreeSet<(String, &'static str)>>,
}

impl Drive {
    /// Nothing has been done yet.
    pub fn new(clients: Clients, scripts: Scripts, recorder: Recorder) -> Self {
        Self {
            clients,
            scripts,
            recorder,
            next_op: AtomicU64::new(1),
            next_script: AtomicU64::new(0),
            used: Mutex::default(),
        }
    }

    /// One operation, noted.
    pub async fn attempt(&self, script: &Script, attempt: &Attempt) {
        let op: OpId = self.next_op.fetch_add(1, Ordering::Relaxed);
        let body = script.payloads.get(attempt.payload);
        let body = body.map(Vec::as_slice).unwrap_or_default();
        self.used
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert((script.key.clone(), attempt.tenant));
        let rule = self.scripts.rules.rules.get(script.rule);
        let path = rule.map(|rule| rule.target(attempt.moved));
        self.recorder.record(Event::Invoke(Invoke {
            op,
            at: clock::now(),
            gateway: attempt.gateway,
            rule: script.rule,
            tenant: attempt.tenant.to_owned(),
            key: script.key.clone(),
            payload: super::answer::digest(body),
            moved: attempt.moved,
            behaviour: attempt.behaviour.clone(),
            leaves_after: attempt.leave.map(|leave| leave.after),
        }));
        let request = Request {
            op,
            path: &path.unwrap_or_default(),
            key: (!rule.is_some_and(|rule| rule.hooks)).then_some(&script.key),
            body,
        };
        let end = self.clients.perform(&request, attempt).await;
        let at = clock::now();
        self.recorder.record(Event::Return(Return { op, at, end }));
    }

    /// Tenant and key of everything that was tried.
    pub fn keys(&self) -> Vec<(&'static str, String)> {
        let used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let names = used.iter().map(|(key, tenant)| (*tenant, key.clone()));
        names.collect()
    }

    /// The tenants that have used the key of a script.
    pub fn tenants(&self, script: &Script) -> Vec<&'static str> {
        let used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let mut tenants: Vec<_> = script.attempts.iter().map(|a| a.tenant).collect();
        tenants.sort_unstable();
        tenants.dedup();
        tenants.retain(|tenant| used.contains(&(script.key.clone(), *tenant)));
        tenants
    }

    /// How many scripts were begun.
    pub fn scripts_begun(&self) -> u64 {
        self.next_script.load(Ordering::Relaxed)
    }

    /// One script. What would begin after `last` is left out.
    async fn script(self: Arc<Self>, script: Script, last: Instant) {
        let begin = Instant::now();
        let script = Arc::new(script);
        let mut running = JoinSet::new();
        for attempt in script.attempts.clone() {
            let at = begin + Duration::from_micros(attempt.after);
            if at > last {
                break;
            }
            let (drive, script) = (self.clone(), script.clone());
            running.spawn(async move {
                tokio::time::sleep_until(at).await;
                drive.attempt(&script, &attempt).await;
            });
        }
        while running.join_next().await.is_some() {}
    }
}

/// Lets so many clients work until `end`, and what they have begun then come to its end.
pub async fn drive(drive: &Arc<Drive>, clients: usize, end: Instant) {
    let mut running = JoinSet::new();
    for number in 0..clients {
        let drive = drive.clone();
        // Not all in the same moment.
        let begin = Instant::now() + Duration::from_millis(number as u64 * 5);
        running.spawn(async move {
            tokio::time::sleep_until(begin).await;
            while Instant::now() < end {
                let index = drive.next_script.fetch_add(1, Ordering::Relaxed);
                let script = drive.scripts.script(index);
                drive.clone().script(script, end).await;
            }
        });
    }
    while running.join_next().await.is_some() {}
}
