//! Signals for a process and everything below it: servers that work in many processes.

use std::path::Path;
use std::time::Duration;

use rustix::process::{kill_process, Pid, Signal};

use crate::process::{read_lossy, Process};
use crate::wait::until;

impl Process {
    /// As [`Process::pause`], with all its descendants.
    pub fn pause_tree(&mut self) {
        // A server may start another worker meanwhile; its parent stands still by then.
        self.pause();
        let mut seen = 0;
        until(Duration::from_secs(5), || {
            let below = self.descendants();
            below.iter().for_each(|pid| send(*pid, Signal::STOP));
            std::mem::replace(&mut seen, below.len()) == below.len()
        });
    }

    /// Lets all of them go on.
    pub fn resume_tree(&mut self) {
        for pid in self.descendants() {
            send(pid, Signal::CONT);
        }
        self.resume();
    }

    /// `kill -9` for all of them at once, as a machine that dies does it.
    pub fn kill_tree(&mut self) {
        self.pause_tree();
        let below = self.descendants();
        below.iter().for_each(|pid| send(*pid, Signal::KILL));
        self.kill();
        until(Duration::from_secs(5), || {
            below.iter().all(|pid| !is_running(*pid))
        });
    }

    /// The ids of the processes below this one.
    pub fn descendants(&self) -> Vec<i32> {
        let Ok(root) = i32::try_from(self.id()) else {
            return Vec::new();
        };
        let parents = parents();
        let mut found = vec![root];
        let mut next = 0;
        while let Some(parent) = found.get(next).copied() {
            let children = parents.iter().filter(|(_, of)| *of == parent);
            found.extend(children.map(|(child, _)| *child));
            next += 1;
        }
        found.split_off(1)
    }
}

fn send(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        // It may have ended meanwhile.
        let _ = kill_process(pid, signal);
    }
}

/// Every process of this machine with its parent.
fn parents() -> Vec<(i32, i32)> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let pairs = pids.filter_map(|pid| {
        let stat = stat(pid);
        let parent = stat.split(' ').nth(1)?.parse().ok()?;
        Some((pid, parent))
    });
    pairs.collect()
}

/// State, parent and what else the kernel tells of a process; empty without it.
fn stat(pid: i32) -> String {
    let stat = read_lossy(Path::new(&format!("/proc/{pid}/stat")));
    // They follow the name, which is in parentheses and may hold anything.
    let after = stat.rsplit_once(") ").map(|(_, after)| after);
    after.unwrap_or_default().to_owned()
}

/// Ended processes that nobody has reaped do not count.
fn is_running(pid: i32) -> bool {
    let stat = stat(pid);
    !stat.is_empty() && !stat.starts_with(['Z', 'X'])
}
