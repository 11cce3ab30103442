//! Opening listeners.

use crate::config::Listen;
use std::fs::{self, Permissions};
use std::io::{Error, ErrorKind, Result};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use tokio::net::{TcpListener, UnixListener, UnixStream};

/// An open listener.
pub(super) enum Listener {
    Tcp(TcpListener, Listen),
    Unix(UnixListener, Listen, #[allow(dead_code)] SocketFile),
}

impl Listener {
    /// Its address, with the port that it really has.
    pub(super) fn address(&self) -> &Listen {
        match self {
            Listener::Tcp(_, address) | Listener::Unix(_, address, _) => address,
        }
    }
}

/// Opens a listener.
pub(super) async fn open(address: &Listen, socket_mode: u32) -> Result<Listener> {
    match address {
        Listen::Tcp(wanted) => {
            let listener = TcpListener::bind(wanted).await?;
            let bound = Listen::Tcp(listener.local_addr()?);
            Ok(Listener::Tcp(listener, bound))
        }
        Listen::Plain(wanted) => {
            let listener = TcpListener::bind(wanted).await?;
            let bound = Listen::Plain(listener.local_addr()?);
            Ok(Listener::Tcp(listener, bound))
        }
        Listen::Unix(path) => {
            clear_stale(path).await?;
            let (listener, file) = bind_unix(path, socket_mode)?;
            Ok(Listener::Unix(listener, address.clone(), file))
        }
    }
}

/// Makes sure that nobody else listens there and that the path is a socket or free.
async fn clear_stale(path: &Path) -> Result<()> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !metadata.file_type().is_socket() {
        return Err(Error::new(
            ErrorKind::AlreadyExists,
            "the path exists and is no socket",
        ));
    }
    match UnixStream::connect(path).await {
        Ok(_) => Err(Error::new(
            ErrorKind::AddrInUse,
            "another process listens there",
        )),
        // Nobody listens: left behind by a process that was killed. It is replaced below.
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Binds under another name, sets the permissions, then moves the socket to its place: there is
/// no moment in which it can be reached with the wrong permissions.
fn bind_unix(path: &Path, mode: u32) -> Result<(UnixListener, SocketFile)> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!("~{}", std::process::id()));
    let temporary = PathBuf::from(name);
    let _ = fs::remove_file(&temporary);
    let listener = UnixListener::bind(&temporary)?;
    let placed = fs::set_permissions(&temporary, Permissions::from_mode(mode))
        .and_then(|()| fs::metadata(&temporary))
        .and_then(|metadata| fs::rename(&temporary, path).map(|()| metadata.ino()));
    match placed {
        Ok(inode) => Ok((
            listener,
            SocketFile {
                path: path.to_owned(),
                inode,
            },
        )),
        Err(error) => {
            let _ = fs::remove_file(&temporary);
            Err(error)
        }
    }
}

/// The socket's file; removed on drop, unless a successor has taken its place.
pub(super) struct SocketFile {
    path: PathBuf,
    inode: u64,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|m| m.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn unix_sockets_stale_taken_and_in_the_way() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let address = Listen::Unix(path.clone());
        let first = open(&address, 0o600).await.unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let taken = open(&address, 0o600).await.err().unwrap();
        assert_eq!(taken.kind(), ErrorKind::AddrInUse);
        drop(first);
        assert!(!path.exists());

        // Left behind by a process that could not clean up.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let again = open(&address, 0o660).await.unwrap();
        drop(again);

        fs::write(&path, "precious").unwrap();
        let blocked = open(&address, 0o660).await.err().unwrap();
        assert_eq!(blocked.kind(), ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }
}
