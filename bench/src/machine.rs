//! On what it was measured.

use std::path::Path;

use idempotency_stack::{tools, Envoy};

/// The machine and the programs.
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
    /// Envoy's version.
    pub envoy: String,
    /// Size of the filter in bytes.
    pub wasm_bytes: u64,
    /// The revision of the sources, `-dirty` if changed since; empty outside a repository.
    pub revision: String,
}

impl Machine {
    /// Looks around; `cores` as they were before anything was pinned.
    pub fn look(envoy: &Envoy, cores: usize, load_before: String) -> Self {
        let info = envoy.ask("GET", "/server_info").json();
        let version = info["version"].as_str().unwrap_or_default();
        let wasm = tools::wasm().ok().and_then(|path| path.metadata().ok());
        Self {
            cpu: cpu(),
            cores,
            kernel: read("/proc/sys/kernel/osrelease"),
            load_before,
            // "commit/version/state/type/library"
            envoy: version.split('/').nth(1).unwrap_or(version).to_owned(),
            wasm_bytes: wasm.map_or(0, |metadata| metadata.len()),
            revision: revision(),
        }
    }
}

/// The load average over the last minute.
pub fn load() -> String {
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
