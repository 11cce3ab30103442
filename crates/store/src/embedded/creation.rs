//! A creation that was interrupted. The engine makes its first journal, and last of all the file that says
//! the directory is a database. A process that dies in between leaves a journal that the next one refuses
//! to create again; so what is certainly empty is taken away before.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::path::Path;

/// The last file of a creation.
const MARKER: &str = "version";
/// The first journal.
const JOURNAL: &str = "0.jnl";
/// What the engine locks while a process uses the directory.
const LOCK: &str = "lock";

/// Takes away what an interrupted creation has left; whether there was something. A directory that another
/// process uses, and one with a single byte of a record, stay as they are.
pub(super) fn undo_interrupted(dir: &Path) -> io::Result<bool> {
    if !is_unfinished(dir)? {
        return Ok(false);
    }
    let mut options = OpenOptions::new();
    let lock = options.write(true).create(true).truncate(false);
    let lock = lock.open(dir.join(LOCK))?;
    match lock.try_lock() {
        Ok(()) => {}
        // It is being created just now.
        Err(TryLockError::WouldBlock) => return Ok(false),
        Err(TryLockError::Error(error)) => return Err(error),
    }
    if !is_unfinished(dir)? {
        return Ok(false);
    }
    fs::remove_file(dir.join(JOURNAL))?;
    if dir.join(MARKER).try_exists()? {
        fs::remove_file(dir.join(MARKER))?;
    }
    Ok(true)
}

fn is_unfinished(dir: &Path) -> io::Result<bool> {
    let has_tables = match fs::read_dir(dir.join("keyspaces")) {
        Ok(mut entries) => entries.next().is_some(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(error),
    };
    Ok(!has_tables
        && dir.join(JOURNAL).try_exists()?
        && is_blank(&dir.join(MARKER))?
        && is_blank(&dir.join(JOURNAL))?)
}

/// Whether a file is not there, or holds nothing but zeros: the engine gives a journal its size before it
/// writes to it.
fn is_blank(path: &Path) -> io::Result<bool> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        Err(error) => return Err(error),
    };
    let mut piece = vec![0; 1 << 16];
    loop {
        let read = match file.read(&mut piece) {
            Ok(0) => return Ok(true),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if piece.iter().take(read).any(|byte| *byte != 0) {
            return Ok(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedded::engine::Engine;
    use crate::embedded::EmbeddedOptions;
    use crate::store::StoreError;

    /// What a creation has made when it is cut, step by step.
    #[test]
    fn a_creation_can_be_cut_anywhere() {
        let journal: &[u8] = &[0; 1 << 20];
        for made in [
            &[][..],
            &[("lock", b"" as &[u8])],
            &[("lock", b""), (JOURNAL, b"")],
            &[("lock", b""), (JOURNAL, journal)],
            &[("lock", b""), (JOURNAL, journal), (MARKER, b"")],
            &[("lock", b""), (JOURNAL, journal), (MARKER, b"\0\0\0\0")],
            &[("lock", b""), (JOURNAL, journal), (MARKER, b"FJL\x03")],
        ] {
            let dir = tempfile::tempdir().unwrap();
            if made.len() > 1 {
                fs::create_dir(dir.path().join("keyspaces")).unwrap();
            }
            for (name, bytes) in made {
                fs::write(dir.path().join(name), bytes).unwrap();
            }
            let options = EmbeddedOptions::new(dir.path());
            for _ in 0..2 {
                drop(Engine::open(&options).unwrap_or_else(|error| panic!("{made:?}: {error}")));
            }
        }
    }

    #[test]
    fn nothing_is_taken_away_that_holds_something() {
        for (marker, journal) in [(b"" as &[u8], b"\0\0x" as &[u8]), (b"FJL\x09", b"\0\0\0")] {
            let dir = tempfile::tempdir().unwrap();
            fs::create_dir(dir.path().join("keyspaces")).unwrap();
            fs::write(dir.path().join(MARKER), marker).unwrap();
            fs::write(dir.path().join(JOURNAL), journal).unwrap();
            let refused = Engine::open(&EmbeddedOptions::new(dir.path()));
            assert!(matches!(refused, Err(StoreError::Permanent(_))));
            assert_eq!(fs::read(dir.path().join(JOURNAL)).unwrap(), journal);
            assert_eq!(fs::read(dir.path().join(MARKER)).unwrap(), marker);
        }
    }

    #[test]
    fn a_creation_under_way_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(JOURNAL), b"\0").unwrap();
        let lock = File::create(dir.path().join(LOCK)).unwrap();
        lock.try_lock().unwrap();
        assert!(!undo_interrupted(dir.path()).unwrap());
        assert!(dir.path().join(JOURNAL).exists());
        drop(lock);
        assert!(undo_interrupted(dir.path()).unwrap());
    }
}
