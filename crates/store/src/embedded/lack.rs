//! What the store may lack for a while: room on the disk, and file descriptors.
//!
//! A store that runs out of either ends, because the engine does not trust itself after a failed
//! write. If it were started again while the same thing is missing, it would end again. So a start
//! first checks that there is enough, and otherwise reports what is missing and waits.

use super::EmbeddedOptions;
use crate::store::StoreError;
use rustix::io::Errno;
use rustix::process::{getrlimit, Resource};
use std::error::Error;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// File descriptors that a start needs to be free: journals, trees, and a flush of each of them.
const DESCRIPTORS: u64 = 48;

/// Descriptors for tables that are kept open, at most.
const CACHED_TABLES: u64 = 900;

/// Room that a start needs at most beside that for its tables.
const ROOM: u64 = 32 << 20;

/// Whether there is room for the first writes of a start, and for the tables that are made of what is
/// in the journals: a start that had to end at its first table would be one of many.
///
/// # Errors
///
/// Transient: what is lacking.
pub(super) fn space(options: &EmbeddedOptions) -> Result<(), StoreError> {
    let needed = needed(options, journals(&options.path));
    let free = free(&options.path);
    if free < needed {
        let place = options.path.display();
        return Err(StoreError::Transient(format!(
            "{place}: {free} bytes are free on the disk, a start needs {needed}"
        )));
    }
    Ok(())
}

/// What is free on the disk of a directory, in bytes. A disk that cannot be asked is not taken to be full: a write will
/// tell.
pub(super) fn free(dir: &Path) -> u64 {
    rustix::fs::statvfs(dir).map_or(u64::MAX, |fs| fs.f_bavail.saturating_mul(fs.f_frsize))
}

fn needed(options: &EmbeddedOptions, journals: u64) -> u64 {
    // Of the four trees.
    let tables = journals.min(options.write_buffer_bytes.saturating_mul(4));
    tables.saturating_add(ROOM.min(options.min_free_bytes / 8))
}

/// What the journals take up; they are longer than what is in them.
fn journals(dir: &Path) -> u64 {
    let files = std::fs::read_dir(dir).into_iter().flatten().flatten();
    files
        .filter(|file| file.path().extension().is_some_and(|e| e == "jnl"))
        .filter_map(|file| Some(file.metadata().ok()?.blocks().saturating_mul(512)))
        .sum()
}

/// Whether there are file descriptors for a start.
///
/// # Errors
///
/// Transient: what is lacking.
pub(super) fn descriptors() -> Result<(), StoreError> {
    let (Some(limit), Some(open)) = (descriptor_limit(), open_descriptors()) else {
        return Ok(());
    };
    if limit < open.saturating_add(DESCRIPTORS) {
        return Err(StoreError::Transient(format!(
            "of {limit} file descriptors (RLIMIT_NOFILE) {open} are in use, a start needs \
             {DESCRIPTORS} more"
        )));
    }
    Ok(())
}

/// How many tables may be kept open: connections need descriptors as well.
pub(super) fn cached_tables() -> usize {
    let share = descriptor_limit().map_or(CACHED_TABLES, |limit| limit / 4);
    usize::try_from(share.clamp(16, CACHED_TABLES)).unwrap_or(16)
}

/// `None`: there is no limit.
fn descriptor_limit() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}

/// `None` where the system does not tell.
fn open_descriptors() -> Option<u64> {
    // Listing them takes one itself. Without any left the count does not matter.
    match std::fs::read_dir("/proc/self/fd") {
        Ok(entries) => u64::try_from(entries.count()).ok(),
        Err(error) if is_lack(&error) => descriptor_limit(),
        Err(_) => None,
    }
}

/// It may pass without anybody touching the store's files: no room, no descriptors, no memory, or a
/// disk that did not take a write.
pub(super) fn is_lack(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        let errno = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::raw_os_error);
        let passes = [
            Errno::NOSPC,
            Errno::DQUOT,
            Errno::FBIG,
            Errno::MFILE,
            Errno::NFILE,
            Errno::NOMEM,
            Errno::AGAIN,
            Errno::IO,
        ];
        if passes.iter().any(|e| errno == Some(e.raw_os_error())) {
            return true;
        }
        next = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_by_itself() {
        let io =
            |errno: Errno| fjall::Error::Io(io::Error::from_raw_os_error(errno.raw_os_error()));
        assert!(is_lack(&io(Errno::NOSPC)));
        assert!(is_lack(&io(Errno::MFILE)));
        assert!(is_lack(&fjall::Error::Storage(
            io::Error::from_raw_os_error(Errno::DQUOT.raw_os_error()).into()
        )));
        assert!(!is_lack(&io(Errno::ACCESS)));
        assert!(!is_lack(&fjall::Error::Unrecoverable));
    }

    #[test]
    fn what_a_start_needs() {
        let mut options = EmbeddedOptions::new("/none");
        assert_eq!(needed(&options, 0), 32 << 20);
        assert_eq!(needed(&options, 1 << 20), 33 << 20);
        assert_eq!(needed(&options, 1 << 40), (4 + 1) * (32 << 20));
        options.min_free_bytes = 80;
        assert_eq!(needed(&options, 5), 15);
        options.min_free_bytes = u64::MAX;
        assert_eq!(needed(&options, 0), 32 << 20);
    }

    #[test]
    fn a_journal_counts_as_what_is_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let journal = std::fs::File::create(dir.path().join("0.jnl")).unwrap();
        journal.set_len(64 << 20).unwrap();
        assert!(journals(dir.path()) < 1 << 20);
        std::fs::write(dir.path().join("1.jnl"), vec![7; 2 << 20]).unwrap();
        assert!((2 << 20..3 << 20).contains(&journals(dir.path())));
        descriptors().unwrap();
    }
}
