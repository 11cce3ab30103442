//! What was measured, as a file that is committed, and how two of them differ.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// Instructions may differ by this much: the order of a map, a moved function.
const TOLERANCE: f64 = 0.03;

/// What one request costs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Work {
    /// Instructions, those of the host in memory among them; `None`: not counted.
    pub instructions: Option<u64>,
    /// How often the host is asked, by what for. What is done once for many requests is a part of a call.
    pub hostcalls: BTreeMap<String, f64>,
}

/// All kinds of requests.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Baseline {
    /// Instructions compare only where this is the same.
    pub made_with: String,
    /// By kind.
    pub requests: BTreeMap<String, Work>,
}

impl Baseline {
    /// Reads what [`Self::write`] wrote.
    ///
    /// # Errors
    ///
    /// If the file cannot be read.
    pub fn read(file: &Path) -> Result<Self, String> {
        let text = std::fs::read(file).map_err(|error| format!("{}: {error}", file.display()))?;
        serde_json::from_slice(&text).map_err(|error| format!("{}: {error}", file.display()))
    }

    /// Writes it.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub fn write(&self, file: &Path) -> Result<(), String> {
        let text = serde_json::to_string_pretty(self).map_err(|error| error.to_string())?;
        std::fs::write(file, text + "\n").map_err(|error| format!("{}: {error}", file.display()))
    }

    /// For readers.
    pub fn table(&self) -> String {
        let mut table =
            "| request | instructions | hostcalls | which |\n|---|--:|--:|---|\n".to_owned();
        for (name, work) in &self.requests {
            let instructions = work.instructions.map(|n| n.to_string());
            let instructions = instructions.unwrap_or_else(|| "–".to_owned());
            let total: f64 = work.hostcalls.values().sum();
            let which: Vec<_> = work
                .hostcalls
                .iter()
                .map(|(name, times)| format!("{times} {name}"))
                .collect();
            let which = which.join(", ");
            table.push_str(&format!(
                "| {name} | {instructions} | {total:.2} | {which} |\n"
            ));
        }
        table
    }

    /// Whether instructions can be compared.
    pub fn compares_with(&self, expected: &Self) -> bool {
        let counted = self
            .requests
            .values()
            .all(|work| work.instructions.is_some());
        counted && self.made_with == expected.made_with
    }

    /// What has changed, one line each.
    pub fn differs_from(&self, expected: &Self) -> Vec<String> {
        let mut faults = Vec::new();
        let names = self.requests.keys().chain(expected.requests.keys());
        let names: std::collections::BTreeSet<_> = names.collect();
        for name in names {
            let (Some(own), Some(before)) = (self.requests.get(name), expected.requests.get(name))
            else {
                faults.push(format!(
                    "{name}: there is no such kind of request in one of both"
                ));
                continue;
            };
            if own.hostcalls != before.hostcalls {
                faults.push(format!(
                    "{name}: hostcalls {:?} were {:?}",
                    own.hostcalls, before.hostcalls
                ));
            }
            if !self.compares_with(expected) {
                continue;
            }
            if let (Some(now), Some(then)) = (own.instructions, before.instructions) {
                let ratio = now as f64 / then.max(1) as f64;
                if (ratio - 1.0).abs() > TOLERANCE {
                    faults.push(format!(
                        "{name}: {now} instructions were {then} ({:+.1} %)",
                        (ratio - 1.0) * 100.0
                    ));
                }
            }
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn baseline(instructions: u64, calls: f64, made_with: &str) -> Baseline {
        let work = Work {
            instructions: Some(instructions),
            hostcalls: BTreeMap::from([("log".to_owned(), calls)]),
        };
        Baseline {
            made_with: made_with.to_owned(),
            requests: BTreeMap::from([("inline".to_owned(), work)]),
        }
    }

    #[test]
    fn what_counts_as_a_difference() {
        let before = baseline(1000, 2.0, "a");
        for (now, faults) in [
            (baseline(1020, 2.0, "a"), 0),
            (baseline(1040, 2.0, "a"), 1),
            (baseline(960, 2.0, "a"), 1),
            (baseline(1040, 2.0, "b"), 0),
            (baseline(1000, 2.1, "b"), 1),
        ] {
            assert_eq!(now.differs_from(&before).len(), faults, "{now:?}");
        }
    }
}
