//! The token that the service makes for itself where nobody configured one.

use super::{Role, Tokens};
use std::fs::{self, File, OpenOptions};
use std::io::{Error, ErrorKind, Read, Result, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Makes sure that the file holds a token, and says whether it was made just now. It is written
/// whole or not at all, and nobody but the owner can read it at any moment. The caller holds the
/// store's lock, so no other process does the same.
pub(crate) fn ensure(path: &Path) -> Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(_) => return Ok(false),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let mut random = [0; 32];
    File::open("/dev/urandom")?.read_exact(&mut random)?;
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!("~{}", std::process::id()));
    let _ = fs::remove_file(&temporary);
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)?;
    let written = write!(file, "{}\n", hex::encode(random))
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written?;
    if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
        File::open(parent)?.sync_all()?;
    }
    Ok(true)
}

/// Adds the token of the file.
pub(crate) fn add_to(tokens: &mut Tokens, path: &Path) -> Result<()> {
    tokens.add_file(Role::Gateway, path).map_err(Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn it_is_made_once_and_for_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("gateway-token");
        assert!(ensure(&path).unwrap());
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.trim().len(), 64);
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(!ensure(&path).unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
        let mut tokens = Tokens::default();
        add_to(&mut tokens, &path).unwrap();
        assert!(tokens.has(Role::Gateway));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
