//! After an end that was not clean: what was read is written and synced again before it is trusted.
//!
//! When an fsync fails, the system may take the pages that it could not write for clean ones. The
//! next process reads them from memory as if they were on disk, and its own fsync has nothing left
//! to write. So a record that nobody was told of could be answered as durable, and be gone after a
//! power cut. Writing the same bytes to the same places makes the pages dirty again.
//!
//! This concerns the journals, and the small files that say which tables there are. Tables are
//! synced before anything names them, and a table whose sync failed is never named.

use super::private;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// There after a clean end, and only then.
const CLEAN: &str = "closed";

/// What a page of the system holds at least.
const PAGE: usize = 4_096;

/// What is left alone: the folders of the engine's tables, and the file that it locks.
const LEFT_ALONE: [&str; 3] = ["tables", "blobs", "lock"];

/// Whether the last process ended after everything was synced.
pub(super) fn ended_cleanly(dir: &Path) -> io::Result<bool> {
    dir.join(CLEAN).try_exists()
}

/// Notes that everything is synced, and that nothing will be written any more.
pub(super) fn note_clean_end(dir: &Path) -> io::Result<()> {
    let mut file = File::create(dir.join(CLEAN))?;
    file.write_all(b"1\n")?;
    file.sync_all()?;
    File::open(dir)?.sync_all()
}

/// Takes the note back, before the first write.
pub(super) fn forget_clean_end(dir: &Path) -> io::Result<()> {
    match fs::remove_file(dir.join(CLEAN)) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(()) => File::open(dir)?.sync_all(),
    }
}

/// Writes everything again that may only seem to be on disk; the number of bytes. The engine must
/// be open, so that no other process is, and nothing may be written to it meanwhile.
pub(super) fn write_again(dir: &Path) -> io::Result<u64> {
    let mut written = 0;
    let (mut left, _) = private::own(dir)?;
    while let Some(path) = left.pop() {
        let kind = match fs::symlink_metadata(&path) {
            Ok(metadata) => metadata.file_type(),
            // The engine removes journals that it no longer needs.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        if path
            .file_name()
            .is_some_and(|name| LEFT_ALONE.iter().any(|alone| name == *alone))
        {
            continue;
        }
        if kind.is_file() {
            written += of_file(&path)?;
        } else if kind.is_dir() {
            for entry in fs::read_dir(&path)? {
                left.push(entry?.path());
            }
            // Which names there are is data, too.
            File::open(&path)?.sync_all()?;
        }
    }
    File::open(dir)?.sync_all()?;
    Ok(written)
}

fn of_file(path: &Path) -> io::Result<u64> {
    let file = match OpenOptions::new().read(true).write(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error),
    };
    let (mut at, mut written) = (0, 0);
    let mut buffer = vec![0; 64 * PAGE];
    loop {
        let read = match file.read_at(&mut buffer, at) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let mut place = at;
        for page in buffer.get(..read).unwrap_or_default().chunks(PAGE) {
            // Journals are made longer than what is in them: there is nothing to be lost, and no
            // room to be taken.
            if page.iter().any(|byte| *byte != 0) {
                file.write_all_at(page, place)?;
                written += len(page);
            }
            place += len(page);
        }
        at = place;
    }
    file.sync_all()?;
    Ok(written)
}

fn len(page: &[u8]) -> u64 {
    u64::try_from(page.len()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn journals_and_small_files_are_written_again_as_they_are_and_tables_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let place = |name: &str| dir.path().join(name);
        fs::create_dir_all(place("keyspaces/1/tables")).unwrap();
        // One page of nothing between two of something, and a part of a page at the end.
        let mut journal = vec![7; PAGE];
        journal.extend(vec![0; PAGE]);
        journal.extend(vec![8; PAGE + 100]);
        fs::write(place("0.jnl"), &journal).unwrap();
        fs::write(place("keyspaces/1/current"), b"v3").unwrap();
        fs::write(place("keyspaces/1/tables/0"), b"large").unwrap();
        // Somebody else's.
        fs::write(place("photo"), b"photo").unwrap();
        let written = write_again(dir.path()).unwrap();
        assert_eq!(written, len(&journal) - len(&[0; PAGE]) + 2);
        assert_eq!(fs::read(place("0.jnl")).unwrap(), journal);
        assert_eq!(fs::read(place("keyspaces/1/current")).unwrap(), b"v3");
    }

    #[test]
    fn the_note_of_a_clean_end() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!ended_cleanly(dir.path()).unwrap());
        forget_clean_end(dir.path()).unwrap();
        note_clean_end(dir.path()).unwrap();
        assert!(ended_cleanly(dir.path()).unwrap());
        forget_clean_end(dir.path()).unwrap();
        assert!(!ended_cleanly(dir.path()).unwrap());
    }
}
