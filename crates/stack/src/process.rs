//! A child process: its log, its signals, its end.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use rustix::process::{kill_process, kill_process_group, Pid, Signal};

use crate::error::Error;
use crate::wait::until;

/// Lines of a log that are shown when something went wrong.
const TAIL: usize = 60;

/// A running (or ended) child. Dropped, it is killed with its whole process group and reaped; if
/// the thread is panicking, the end of its log goes to stderr.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    ended: Option<ExitStatus>,
}

impl Process {
    /// Starts a command whose output is appended to `log`.
    ///
    /// # Errors
    ///
    /// If the log cannot be written or the program cannot be started.
    pub fn start(name: &str, command: Command, log: PathBuf) -> Result<Self, Error> {
        Self::start_until(name, command, log, Signal::KILL)
    }

    /// As [`Self::start`], for a program that must end its own children: if this process ends without
    /// having stopped it, it gets SIGTERM and is not killed.
    pub(crate) fn start_parent(name: &str, command: Command, log: PathBuf) -> Result<Self, Error> {
        Self::start_until(name, command, log, Signal::TERM)
    }

    fn start_until(
        name: &str,
        mut command: Command,
        log: PathBuf,
        last: Signal,
    ) -> Result<Self, Error> {
        let program = command.get_program().to_string_lossy().into_owned();
        let failed = |what: &str| {
            let what = what.to_owned();
            move |error: io::Error| Error::new(format!("{name}: {what}: {error}"))
        };
        let out = File::options().create(true).append(true).open(&log);
        let out = out.map_err(failed(&format!("cannot write {}", log.display())))?;
        let err = out.try_clone().map_err(failed("cannot share the log"))?;
        command
            .stdin(std::process::Stdio::null())
            .stdout(out)
            .stderr(err);
        let child =
            crate::spawn::spawn(command, last).map_err(failed(&format!("cannot run {program}")))?;
        Ok(Self {
            name: name.to_owned(),
            child,
            log,
            ended: None,
        })
    }

    /// Waits until `ready` holds.
    ///
    /// # Errors
    ///
    /// If the process ends before, or `timeout` is over. The message has the end of the log.
    pub fn await_ready(
        &mut self,
        timeout: Duration,
        mut ready: impl FnMut() -> bool,
    ) -> Result<(), Error> {
        let mut ended = None;
        let in_time = until(timeout, || {
            ended = self.exit_status();
            ended.is_some() || ready()
        });
        let message = match ended {
            Some(status) => format!("{} ended while starting ({status})", self.name),
            None if in_time => return Ok(()),
            None => format!("{} was not ready within {timeout:?}", self.name),
        };
        Err(Error::new(format!(
            "{message}; its log ends:\n{}",
            self.tail(TAIL)
        )))
    }

    /// The name it was started under.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended; `None` while it runs.
    pub fn exit_status(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            // An error here means there is no such child any more, which `try_wait` remembers.
            self.ended = self.child.try_wait().ok().flatten();
        }
        self.ended
    }

    /// Kills it, as `kill -9` does, with everything it started, and reaps it.
    pub fn kill(&mut self) {
        if self.exit_status().is_some() {
            return;
        }
        if let Some(pid) = self.pid() {
            let _ = kill_process_group(pid, Signal::KILL);
        }
        self.ended = self.child.wait().ok();
    }

    /// Asks it to end (SIGTERM), kills it when it has not after `grace`.
    pub fn stop(&mut self, grace: Duration) -> Option<ExitStatus> {
        self.signal(Signal::TERM);
        if !until(grace, || self.exit_status().is_some()) {
            self.kill();
        }
        self.ended
    }

    /// Stops it in its tracks (SIGSTOP) until [`Self::resume`]. On return all threads stand still.
    pub fn pause(&mut self) {
        self.signal(Signal::STOP);
        let tasks = format!("/proc/{}/task", self.id());
        until(Duration::from_secs(5), || {
            all_stopped(&tasks) || self.exit_status().is_some()
        });
    }

    /// Stops it and the processes that it has forked, as [`Self::pause`]; returns the latter.
    pub fn pause_all(&mut self) -> Vec<Pid> {
        // It first, so that it forks no more.
        self.pause();
        let children = self.children();
        for child in &children {
            let _ = kill_process(*child, Signal::STOP);
            let tasks = format!("/proc/{child}/task");
            until(Duration::from_secs(5), || {
                all_stopped(&tasks) || !Path::new(&tasks).exists()
            });
        }
        children
    }

    /// Lets it go on after [`Self::pause_all`], with what it has forked.
    pub fn resume_all(&mut self) {
        for child in self.children() {
            let _ = kill_process(child, Signal::CONT);
        }
        self.resume();
    }

    /// `kill -9` for it and what it has forked, all at one time as far as anybody can tell: as if
    /// its machine had lost its power.
    pub fn kill_all(&mut self) {
        let children = self.pause_all();
        self.kill();
        for child in children {
            let _ = kill_process(child, Signal::KILL);
        }
    }

    /// The processes that it has forked, and that live.
    fn children(&self) -> Vec<Pid> {
        let parent = self.id().to_string();
        let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let ids = processes.filter_map(|entry| {
            let stat = read_lossy(&entry.path().join("stat"));
            // The name is in parentheses and may hold anything; then the state, then the parent.
            let (_, rest) = stat.rsplit_once(") ")?;
            let of = rest.split(' ').nth(1)?;
            let id = entry.file_name().to_str()?.parse().ok()?;
            (of == parent).then(|| Pid::from_raw(id)).flatten()
        });
        ids.collect()
    }

    /// Lets it go on (SIGCONT).
    pub fn resume(&mut self) {
        self.signal(Signal::CONT);
    }

    /// Sends a signal, if it still runs.
    pub(crate) fn signal(&mut self, signal: Signal) {
        // Not reaped yet, so the id is still this child's.
        if self.exit_status().is_none() {
            if let Some(pid) = self.pid() {
                let _ = kill_process(pid, signal);
            }
        }
    }

    fn pid(&self) -> Option<Pid> {
        i32::try_from(self.child.id()).ok().and_then(Pid::from_raw)
    }

    /// The file with its output.
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// All of its output up to now.
    pub fn log(&self) -> String {
        read_lossy(&self.log)
    }

    /// The last lines of its output.
    pub fn tail(&self, lines: usize) -> String {
        tail(&self.log(), lines)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!(
                "---- the log of {} ends:\n{}----",
                self.name,
                self.tail(TAIL)
            );
        }
    }
}

/// Whether every thread below this directory of `/proc` is stopped, or at its end.
fn all_stopped(tasks: &str) -> bool {
    let Ok(tasks) = std::fs::read_dir(tasks) else {
        return false;
    };
    tasks.flatten().all(|task| {
        let stat = read_lossy(&task.path().join("stat"));
        // The state follows the name, which is in parentheses and may hold anything.
        stat.rsplit_once(") ")
            .is_some_and(|(_, state)| state.starts_with(['T', 'Z']))
    })
}

/// A file's text; empty if it cannot be read.
pub(crate) fn read_lossy(path: &Path) -> String {
    std::fs::read(path)
        .map(|octets| String::from_utf8_lossy(&octets).into_owned())
        .unwrap_or_default()
}

/// The last lines of a text.
pub(crate) fn tail(text: &str, lines: usize) -> String {
    let all: Vec<_> = text.lines().collect();
    let mut tail = all.split_at(all.len().saturating_sub(lines)).1.join("\n");
    tail.push('\n');
    tail
}
