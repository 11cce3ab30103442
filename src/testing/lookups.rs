//! Kong looks up names in Lua, for requests and for ticks alike. Whoever asks for a name that somebody
//! else is just looking up waits on a semaphore, and a tick's callout that does so ends the worker
//! (measured, `docs/kong-facts.md`). What was looked up once is known from then on.

use idempotency_core::config;
use std::collections::{BTreeMap, BTreeSet};

/// The names of one worker.
#[derive(Debug, Default)]
pub struct Lookups {
    known: BTreeSet<String>,
    /// By the tokens of callouts that are out.
    out: BTreeMap<u32, String>,
    /// The callout that is just made.
    asked: Option<String>,
}

impl Lookups {
    /// A callout is about to be made; whether it has to wait for somebody else's lookup.
    pub fn waits(&mut self, target: &str) -> bool {
        let name = target.split(':').next().unwrap_or_default().to_owned();
        // It is in every file of hosts.
        let asks =
            config::is_host_name(target) && name != "localhost" && !self.known.contains(&name);
        let waits = asks && self.out.values().any(|other| *other == name);
        self.asked = asks.then_some(name);
        waits
    }

    /// The callout has a token.
    pub fn dispatched(&mut self, token: u32) {
        self.out.extend(self.asked.take().map(|name| (token, name)));
    }

    /// Its answer, or its failure, is there.
    pub fn answered(&mut self, token: u32, failed: bool) {
        let name = self.out.remove(&token);
        self.known.extend(name.filter(|_| !failed));
    }
}
