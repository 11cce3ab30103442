//! Kong looks up names in Lua, for requests and for ticks alike. While one caller looks up a name, a
//! second caller that asks for the same name waits on a semaphore. If that second caller is a tick's
//! callout, the worker ends (measured, `docs/kong-facts.md`). A name that was looked up once stays known.

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
