//! Which part runs on which core.

use idempotency_stack::Error;
use rustix::thread::{sched_getaffinity, sched_setaffinity, CpuSet, Pid};

/// The core of each part; `None`: too few cores, or not wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cores {
    /// The load generator's.
    pub load: usize,
    /// Envoy's.
    pub envoy: usize,
    /// The idempotency service's.
    pub service: usize,
    /// The upstream's.
    pub upstream: usize,
}

/// The cores that this process may use.
pub fn usable() -> Vec<usize> {
    let Ok(set) = sched_getaffinity(None) else {
        return Vec::new();
    };
    (0..CpuSet::MAX_CPU)
        .filter(|core| set.is_set(*core))
        .collect()
}

impl Cores {
    /// One core for each part, where there are four.
    pub fn choose() -> Option<Self> {
        match usable().as_slice() {
            [load, envoy, service, upstream, ..] => Some(Self {
                load: *load,
                envoy: *envoy,
                service: *service,
                upstream: *upstream,
            }),
            _ => None,
        }
    }

    /// In words.
    pub fn describe(cores: Option<Self>) -> String {
        cores.map_or_else(
            || "not pinned: all parts share all cores".to_owned(),
            |c| {
                format!(
                    "pinned: load generator on core {}, Envoy on {}, service on {}, upstream on {}",
                    c.load, c.envoy, c.service, c.upstream
                )
            },
        )
    }
}

/// Binds all threads of a process to a core; threads that it starts later inherit it.
///
/// # Errors
///
/// If the process is gone or the kernel refuses.
pub fn pin_process(id: u32, core: usize) -> Result<(), Error> {
    let failed = |what: String| Error::new(format!("cannot pin process {id}: {what}"));
    let tasks = std::fs::read_dir(format!("/proc/{id}/task"));
    for task in tasks.map_err(|error| failed(error.to_string()))?.flatten() {
        let thread = task.file_name().to_string_lossy().parse().ok();
        if let Some(thread) = thread.and_then(Pid::from_raw) {
            pin(Some(thread), core).map_err(|error| failed(error.to_string()))?;
        }
    }
    Ok(())
}

/// Binds the calling thread, and with it the programs that it starts, to a core.
///
/// # Errors
///
/// If the kernel refuses.
pub fn pin_this_thread(core: usize) -> Result<(), Error> {
    pin(None, core).map_err(|error| Error::new(format!("cannot pin the load generator: {error}")))
}

fn pin(thread: Option<Pid>, core: usize) -> rustix::io::Result<()> {
    let mut set = CpuSet::new();
    set.set(core);
    sched_setaffinity(thread, &set)
}
