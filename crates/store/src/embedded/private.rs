//! At rest, nobody but the owner reads what is kept here: directories are 0700, files 0600.
//!
//! The engine creates its files by itself, with what the process' umask leaves. The directory keeps
//! others out in any case; `idempotencyd` sets its umask as well, so that a copy of a file is as
//! private as the file. What an older version, or a careless copy, left wider is narrowed at start.

use std::fs::{self, DirBuilder, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Everything but the owner's bits.
const OTHERS: u32 = 0o077;

/// Creates the directory, and what is missing above it.
pub(super) fn create(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// Narrows the directory and what is the store's in it; what there is to say about it.
pub(super) fn mend(dir: &Path) -> Vec<String> {
    let (mut narrowed, mut notes) = (0_usize, Vec::new());
    let (mut left, others) = match own(dir) {
        Ok(found) => found,
        Err(error) => return vec![format!("{} cannot be listed: {error}", dir.display())],
    };
    if others == 0 {
        // Not what somebody shares with the store: a home, or all of /tmp.
        left.push(dir.to_owned());
    } else if fs::metadata(dir).is_ok_and(|m| m.permissions().mode() & OTHERS != 0) {
        notes.push(format!(
            "{} is open to others, and stays so, since it also holds what is not the store's: give \
             the store a directory of its own",
            dir.display()
        ));
    }
    while let Some(path) = left.pop() {
        // The directory itself may be named by a link; links in it are not followed.
        let metadata = match path == dir {
            true => fs::metadata(&path),
            false => fs::symlink_metadata(&path),
        };
        let done = metadata.and_then(|metadata| {
            if metadata.is_dir() && path != dir {
                for entry in fs::read_dir(&path)? {
                    left.push(entry?.path());
                }
            }
            narrow(&path, &metadata)
        });
        match done {
            Ok(changed) => narrowed += usize::from(changed),
            // The engine removes files while this runs.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => notes.push(format!(
                "{} may be open to others, and cannot be changed: {error}",
                path.display()
            )),
        }
    }
    if narrowed > 0 {
        notes.push(format!(
            "{}: {narrowed} files and directories were open to others; now only their owner may \
             read and write them",
            dir.display()
        ));
    }
    notes
}

/// What is the store's in its directory, and how much is not.
pub(super) fn own(dir: &Path) -> io::Result<(Vec<PathBuf>, usize)> {
    let (mut own, mut others) = (Vec::new(), 0);
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let known = [
            "keyspaces",
            "lock",
            "version",
            "witness",
            "witness.new",
            "closed",
            // The token that `idempotencyd` makes for itself.
            "gateway-token",
        ];
        if known.contains(&&*name) || name.ends_with(".jnl") {
            own.push(entry.path());
        } else if name != "lost+found" {
            others += 1;
        }
    }
    Ok((own, others))
}

fn narrow(path: &Path, metadata: &Metadata) -> io::Result<bool> {
    let mode = metadata.permissions().mode() & 0o777;
    if !(metadata.is_dir() || metadata.is_file()) || mode & OTHERS == 0 {
        return Ok(false);
    }
    fs::set_permissions(path, Permissions::from_mode(mode & !OTHERS))?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn what_is_wider_is_narrowed_and_told() {
        let outer = tempfile::tempdir().unwrap();
        let dir = outer.path().join("a/data");
        create(&dir).unwrap();
        assert_eq!(mode(&dir), 0o700);
        assert!(mend(&dir).is_empty());

        let (inner, file) = (dir.join("keyspaces"), dir.join("keyspaces/file"));
        let journal = dir.join("0.jnl");
        let elsewhere = outer.path().join("elsewhere");
        fs::create_dir(&inner).unwrap();
        for path in [&file, &journal, &elsewhere] {
            fs::write(path, "x").unwrap();
        }
        let token = dir.join("gateway-token");
        fs::write(&token, "x").unwrap();
        let wide = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode));
        for (path, mode) in [
            (&dir, 0o755),
            (&inner, 0o775),
            (&file, 0o644),
            (&journal, 0o666),
            (&token, 0o644),
            (&elsewhere, 0o644),
        ] {
            wide(path, mode).unwrap();
        }
        std::os::unix::fs::symlink(&elsewhere, inner.join("link")).unwrap();
        let notes = mend(&dir);
        assert!(
            notes.len() == 1 && notes[0].contains(": 5 files"),
            "{notes:?}"
        );
        assert_eq!([&dir, &inner].map(|path| mode(path)), [0o700, 0o700]);
        assert_eq!([&file, &journal].map(|path| mode(path)), [0o600, 0o600]);
        assert_eq!(mode(&elsewhere), 0o644, "a link is not followed");
        assert!(mend(&dir).is_empty());

        // A directory that is not the store's alone is left as it is, and so is what is in it.
        let foreign = dir.join("photo");
        fs::write(&foreign, "x").unwrap();
        wide(&foreign, 0o644).unwrap();
        wide(&dir, 0o755).unwrap();
        wide(&journal, 0o644).unwrap();
        let notes = mend(&dir).join("; ");
        assert!(
            notes.contains("stays so") && notes.contains(": 1 files"),
            "{notes}"
        );
        assert_eq!([&dir, &foreign].map(|path| mode(path)), [0o755, 0o644]);
        assert_eq!(mode(&journal), 0o600);
    }
}
