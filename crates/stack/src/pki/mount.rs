//! A directory that changes as a whole, as Kubernetes mounts secrets: the files are links into a hidden directory,
//! which is a link itself, and is replaced in one step.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::{Leaf, CA, CERT, KEY};
use crate::error::Error;

const DATA: &str = "..data";

/// Such a directory.
#[derive(Debug)]
pub struct Mount {
    dir: PathBuf,
    versions: AtomicU32,
}

impl Mount {
    /// An empty one, made with its first files.
    pub fn new(dir: PathBuf) -> Self {
        Self {
            dir,
            versions: AtomicU32::new(0),
        }
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A file in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Certificate, key and authority.
    ///
    /// # Errors
    ///
    /// If a file cannot be written.
    pub fn put(&self, leaf: &Leaf, authority: &str) -> Result<(), Error> {
        self.write(&[(CERT, &leaf.cert), (KEY, &leaf.key), (CA, authority)])
    }

    /// Replaces all files in one step.
    ///
    /// # Errors
    ///
    /// If a file cannot be written.
    pub fn write(&self, files: &[(&str, &str)]) -> Result<(), Error> {
        self.try_write(files)
            .map_err(|error| Error::new(format!("{}: {error}", self.dir.display())))
    }

    fn try_write(&self, files: &[(&str, &str)]) -> std::io::Result<()> {
        let version = format!("..{}", self.versions.fetch_add(1, Ordering::Relaxed));
        std::fs::create_dir_all(self.dir.join(&version))?;
        for (name, text) in files {
            std::fs::write(self.dir.join(&version).join(name), text)?;
        }
        let new = self.dir.join("..data_tmp");
        symlink(&version, &new)?;
        std::fs::rename(&new, self.dir.join(DATA))?;
        for (name, _) in files {
            if !self.path(name).exists() {
                symlink(Path::new(DATA).join(name), self.path(name))?;
            }
        }
        Ok(())
    }
}
