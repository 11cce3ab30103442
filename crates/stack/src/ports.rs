//! Free ports.

use std::collections::HashMap;
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::net::TcpListener;
use std::sync::{Mutex, OnceLock, PoisonError};

/// Below Linux's range for outgoing connections, so that none of those takes a port between our
/// look and the child's `bind`, or while a killed child is being restarted.
const RANGE: std::ops::Range<u16> = 18_000..32_000;

/// The ports given out, with a lock on each that lasts as long as this process.
static GIVEN: OnceLock<Mutex<HashMap<u16, File>>> = OnceLock::new();

/// Refuses connections: the port of the "TCP port service multiplexer", which nobody runs.
pub const REFUSED: std::net::SocketAddr =
    std::net::SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1);

/// A port on 127.0.0.1 that nobody listens on and that neither this process has given out before
/// nor another one of ours that is still running.
///
/// # Panics
///
/// If there is none.
pub fn free() -> u16 {
    let mut given = GIVEN
        .get_or_init(Mutex::default)
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    let span = u64::from(RANGE.end - RANGE.start);
    for attempt in 0..10_000_u32 {
        // Random, since test programs that run at the same time draw from the same range.
        let random = RandomState::new().hash_one(attempt) % span;
        let port = RANGE.start + u16::try_from(random).unwrap_or(0);
        if given.contains_key(&port) || !is_free(port) {
            continue;
        }
        // Between our look and the child's `bind` another test program may look, too.
        if let Some(lock) = reserve(port) {
            given.insert(port, lock);
            return port;
        }
    }
    panic!(
        "no free port on 127.0.0.1 between {} and {}",
        RANGE.start, RANGE.end
    );
}

/// Keeps a port from the other processes that ask here; the lock ends with its file.
fn reserve(port: u16) -> Option<File> {
    let user = rustix::process::getuid().as_raw();
    let dir = std::env::temp_dir().join(format!("idempotency-ports-{user}"));
    std::fs::create_dir_all(&dir).ok()?;
    let file = File::create(dir.join(port.to_string())).ok()?;
    file.try_lock().ok()?;
    Some(file)
}

/// Whether nobody listens on this port of 127.0.0.1.
pub fn is_free(port: u16) -> bool {
    TcpListener::bind(("127.0.0.1", port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn no_port_twice() {
        let ports: HashSet<_> = (0..50).map(|_| free()).collect();
        assert_eq!(ports.len(), 50);
    }

    #[test]
    fn a_port_is_reserved_against_other_processes() {
        // Locks belong to the open file, so a second one stands for another process.
        let port = free();
        assert!(reserve(port).is_none());
    }

    #[test]
    fn a_listener_is_noticed() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(!is_free(port));
        drop(listener);
        assert!(is_free(port));
    }
}
