//! On what it was measured.

use std::path::Path;

use crate::cores;

/// The machine and the sources.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Machine {
    /// The processor's name.
    pub cpu: String,
    /// Cores that may be used.
    pub cores: usize,
    /// The kernel's release.
    pub kernel: String,
    /// Load average over the last minute before the first run: other work spoils the numbers.
    pub load_before: String,
    /// The revision of the sources, `-dirty` if changed since; empty outside a repository.
    pub revision: String,
}

impl Machine {
    /// Looks around. To be called before anything is pinned or started.
    pub fn look() -> Self {
        Self {
            cpu: cpu(),
            cores: cores::usable().len(),
            kernel: read("/proc/sys/kernel/osrelease"),
            load_before: load(),
            revision: revision(),
        }
    }

    /// In words.
    pub fn describe(&self) -> String {
        format!(
            "{}, {} cores, Linux {}, revision {}; load average before: {}",
            self.cpu, self.cores, self.kernel, self.revision, self.load_before
        )
    }
}

/// The load average over the last minute.
fn load() -> String {
    let averages = read("/proc/loadavg");
    averages.split(' ').next().unwrap_or_default().to_owned()
}

fn cpu() -> String {
    let info = read("/proc/cpuinfo");
    let name = info
        .lines()
        .find_map(|line| line.strip_prefix("model name"));
    let name = name.unwrap_or_default();
    name.trim_start_matches([' ', '\t', ':']).to_owned()
}

fn revision() -> String {
    let git = std::process::Command::new("git")
        .args(["describe", "--always", "--dirty", "--exclude=*"])
        .output();
    let git = git.ok().filter(|output| output.status.success());
    git.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
        .unwrap_or_default()
}

fn read(path: impl AsRef<Path>) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.trim().to_owned()
}
