//! Tells the operator what the notes say: counters, the gateway's log, and a property for its access log.

use super::Filter;
use crate::host::{Host, Level};
use crate::note::{number, Note};
use crate::profile::Profile;
use crate::stats::Counter;
use idempotency_core::config::Rule;
use idempotency_core::problem::Problem;
use std::sync::Arc;

impl<H: Host> Filter<H> {
    /// Counts, and what became of a request of this rule, too.
    pub(super) fn count_rule(&self, root: u32, counter: Counter, rule: &Arc<Rule>) {
        if let Some(root) = self.roots.get(&root) {
            root.metrics.count(&self.host, counter);
            root.metrics.count_rule(&self.host, counter, rule);
        }
    }

    /// Tells of what is about no living stream.
    pub(super) fn tell(&mut self, root: u32, note: &Note) {
        self.count_note(root, note);
        self.write(root, note, None);
    }

    /// The same of a stream.
    #[cold]
    pub(super) fn tell_of(&mut self, root: u32, context: u32, note: &Note) {
        self.count_note(root, note);
        let facts = if self.has_property(note.what) && self.enter(context) {
            let mut facts = note.facts();
            facts.push(b'}');
            // A host that takes none has nothing in its access log; the line is there.
            let _ = self.host.set_property(self.profile.property(), &facts);
            facts.pop();
            Some(facts)
        } else {
            None
        };
        self.write(root, note, facts);
    }

    fn count_note(&self, root: u32, note: &Note) {
        match &note.rule {
            // It is counted when the service has heard of it.
            _ if note.what == Counter::Unknown => {}
            Some(rule) => self.count_rule(root, note.what, rule),
            None => self.count(root, note.what),
        }
    }

    /// In Kong, a property needs a callback of the stream itself: what is only observed is decided about in the
    /// root's tick, and a settlement is answered there.
    fn has_property(&self, what: Counter) -> bool {
        match self.profile {
            Profile::Envoy => true,
            Profile::Kong => matches!(what, Counter::Problem(_) | Counter::PassedUnprotected),
        }
    }

    fn write(&mut self, root: u32, note: &Note, facts: Option<Vec<u8>>) {
        let now_ns = self.now().least_ns;
        let Some(r) = self.roots.get_mut(&root) else {
            return;
        };
        let Some(left_out) = r.told_of.say(note.what, now_ns) else {
            return;
        };
        let mut facts = facts.unwrap_or_else(|| note.facts());
        number(&mut facts, "left_out", left_out);
        let facts = String::from_utf8_lossy(&facts);
        let line = ["idempotency: ", &facts, "}"].concat();
        self.host.log(self.level(note.what), &line);
    }

    /// What an operator has to look into is a warning. Kong does not show anything less, as it is shipped.
    fn level(&self, what: Counter) -> Level {
        let ordinary = match what {
            // Somebody has to mend it.
            Counter::Problem(Problem::Misconfigured) => return Level::Error,
            Counter::Problem(problem) => problem.status() < 500,
            Counter::Observed(_) | Counter::ObservedReplay | Counter::ObservedExecution => true,
            Counter::CompleteLate => true,
            _ => false,
        };
        match (ordinary, self.profile) {
            (true, Profile::Envoy) => Level::Info,
            _ => Level::Warn,
        }
    }
}
