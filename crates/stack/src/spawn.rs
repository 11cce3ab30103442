//! Starting children that cannot outlive this process.
//!
//! Linux ties `PR_SET_PDEATHSIG` to the *thread* that forked: a child started by a test's thread
//! would be killed when that test ends, also if others still use it. So one thread, which lives as
//! long as the process, does all the forking.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::mpsc::{channel, Sender};
use std::sync::{Mutex, OnceLock, PoisonError};

use rustix::process::{getpid, getppid, set_parent_process_death_signal, Signal};

struct Job {
    command: Command,
    reply: Sender<io::Result<Child>>,
}

static SPAWNER: OnceLock<Mutex<Sender<Job>>> = OnceLock::new();

fn spawner() -> Sender<Job> {
    let start = || {
        let (sender, jobs) = channel::<Job>();
        std::thread::spawn(move || {
            for Job { mut command, reply } in jobs {
                // If nobody waits for the child any more, dropping the handle leaks it until the
                // process ends; the caller below always waits.
                let _ = reply.send(command.spawn());
            }
        });
        Mutex::new(sender)
    };
    SPAWNER
        .get_or_init(start)
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone()
}

/// Starts a command in a process group of its own; the kernel sends it `last` when this process
/// ends, however it ends.
pub(crate) fn spawn(mut command: Command, last: Signal) -> io::Result<Child> {
    command.process_group(0);
    die_with_parent(&mut command, last);
    let (reply, child) = channel();
    let gone = |_| io::Error::other("the spawning thread is gone");
    spawner()
        .send(Job { command, reply })
        .map_err(|_| io::Error::other("no spawning thread"))?;
    child.recv().map_err(gone)?
}

/// Has this process itself receive SIGTERM when its parent ends.
///
/// # Errors
///
/// If the kernel refuses, which it has no reason to.
pub fn terminate_with_parent() -> io::Result<()> {
    Ok(set_parent_process_death_signal(Some(Signal::TERM))?)
}

#[allow(unsafe_code)]
fn die_with_parent(command: &mut Command, last: Signal) {
    let parent = getpid();
    // SAFETY: the closure runs in the forked child before `exec`. It makes two system calls and
    // touches neither memory that other threads may have left locked nor the allocator.
    unsafe {
        command.pre_exec(move || {
            set_parent_process_death_signal(Some(last))?;
            // The parent may have died before the call above.
            if getppid() != Some(parent) {
                return Err(io::Error::from(io::ErrorKind::BrokenPipe));
            }
            Ok(())
        });
    }
}
