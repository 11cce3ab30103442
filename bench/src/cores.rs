//! Which process runs on which cores.

use idempotency_stack::Error;
use rustix::thread::{sched_getaffinity, sched_setaffinity, CpuSet, Pid};

/// The cores that the calling thread may use.
pub fn usable() -> Vec<usize> {
    let Ok(set) = sched_getaffinity(None) else {
        return Vec::new();
    };
    (0..CpuSet::MAX_CPU)
        .filter(|core| set.is_set(*core))
        .collect()
}

/// Binds all threads of a process to cores; threads and children that it starts later inherit it.
///
/// # Errors
///
/// If the process is gone or the kernel refuses.
pub fn pin_process(id: u32, cores: &[usize]) -> Result<(), Error> {
    let failed = |what: String| Error::new(format!("cannot pin process {id}: {what}"));
    let tasks = std::fs::read_dir(format!("/proc/{id}/task"));
    for task in tasks.map_err(|error| failed(error.to_string()))?.flatten() {
        let thread = task.file_name().to_string_lossy().parse().ok();
        if let Some(thread) = thread.and_then(Pid::from_raw) {
            pin(Some(thread), cores).map_err(|error| failed(error.to_string()))?;
        }
    }
    Ok(())
}

/// Binds the calling thread, and with it the threads and programs that it starts, to cores.
///
/// # Errors
///
/// If the kernel refuses.
pub fn pin_this_thread(cores: &[usize]) -> Result<(), Error> {
    pin(None, cores).map_err(|error| Error::new(format!("cannot pin this thread: {error}")))
}

fn pin(thread: Option<Pid>, cores: &[usize]) -> rustix::io::Result<()> {
    let mut set = CpuSet::new();
    for core in cores {
        set.set(*core);
    }
    sched_setaffinity(thread, &set)
}
