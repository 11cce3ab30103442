//! A relay in front of a server, for tests: the network that fails.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::Error;

/// Passes connections to 127.0.0.1 on to another port there, until it is cut. Dropped, it closes
/// them.
#[derive(Debug)]
pub struct Relay {
    port: u16,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    target: u16,
    rewriting: Option<(Vec<u8>, Vec<u8>)>,
    cut: AtomicBool,
    ended: AtomicBool,
    open: Mutex<Vec<TcpStream>>,
}

impl Relay {
    /// To that port of 127.0.0.1.
    ///
    /// # Errors
    ///
    /// If there is no port to listen on.
    pub fn to(target: u16) -> Result<Relay, Error> {
        Relay::start(target, None)
    }

    /// The same, with every `from` in the server's answers replaced by `to`, of the same length so
    /// that what counts octets still counts right.
    ///
    /// # Errors
    ///
    /// If there is no port to listen on, or the lengths differ.
    pub fn rewriting(target: u16, from: &str, to: &str) -> Result<Relay, Error> {
        if from.len() != to.len() || from.is_empty() {
            return Err(Error::new(format!("{from} and {to} differ in length")));
        }
        Relay::start(target, Some((from.into(), to.into())))
    }

    fn start(target: u16, rewriting: Option<(Vec<u8>, Vec<u8>)>) -> Result<Relay, Error> {
        let failed = |error| Error::new(format!("relay: {error}"));
        let listener = TcpListener::bind(("127.0.0.1", 0)).map_err(failed)?;
        let port = listener.local_addr().map_err(failed)?.port();
        let shared = Arc::new(Shared {
            target,
            rewriting,
            cut: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            open: Mutex::default(),
        });
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if accepting.ended.load(Ordering::SeqCst) {
                    return;
                }
                accepting.pass(client);
            }
        });
        Ok(Relay { port, shared })
    }

    /// Where it listens on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Closes all connections, and new ones at once.
    pub fn cut(&self) {
        let open = self.shared.open();
        self.shared.cut.store(true, Ordering::SeqCst);
        Shared::close(open);
    }

    /// New connections are passed on again.
    pub fn mend(&self) {
        self.shared.cut.store(false, Ordering::SeqCst);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        self.cut();
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

impl Shared {
    fn open(&self) -> std::sync::MutexGuard<'_, Vec<TcpStream>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(mut open: std::sync::MutexGuard<'_, Vec<TcpStream>>) {
        for stream in open.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn pass(self: &Arc<Self>, client: TcpStream) {
        // Under the lock: a cut comes before, or closes these too.
        let mut open = self.open();
        if self.cut.load(Ordering::SeqCst) {
            return;
        }
        let Ok(server) = TcpStream::connect(("127.0.0.1", self.target)) else {
            return;
        };
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let pairs = [
            (client.try_clone(), server.try_clone(), None),
            (Ok(server), Ok(client), self.rewriting.clone()),
        ];
        for (from, to, rewriting) in pairs {
            let (Ok(from), Ok(to)) = (from, to) else {
                return;
            };
            if let Ok(handle) = from.try_clone() {
                open.push(handle);
            }
            std::thread::spawn(move || {
                let _ = copy(&from, &to, rewriting.as_ref());
                let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
            });
        }
    }
}

fn copy(
    mut from: &TcpStream,
    mut to: &TcpStream,
    rewriting: Option<&(Vec<u8>, Vec<u8>)>,
) -> std::io::Result<()> {
    let mut chunk = [0; 16 << 10];
    let mut held = Vec::new();
    loop {
        let read = from.read(&mut chunk)?;
        let Some(new) = chunk.get(..read).filter(|new| !new.is_empty()) else {
            return to.write_all(&held);
        };
        match rewriting {
            None => to.write_all(new)?,
            Some((pattern, by)) => {
                held.extend_from_slice(new);
                let ready = rewrite(&mut held, pattern, by);
                to.write_all(&ready)?;
            }
        }
    }
}

/// Takes from `held` what can be passed on: all but an end that may be the beginning of `pattern`.
fn rewrite(held: &mut Vec<u8>, pattern: &[u8], by: &[u8]) -> Vec<u8> {
    let mut at = 0;
    while let Some(window) = held.get_mut(at..at + pattern.len()) {
        if window == pattern {
            window.copy_from_slice(by);
            at += pattern.len();
        } else {
            at += 1;
        }
    }
    let longest = pattern.len().saturating_sub(1).min(held.len());
    let begun = |length: &usize| {
        let end = held.get(held.len() - length..);
        end.is_some_and(|end| pattern.starts_with(end))
    };
    let keep = (1..=longest).rev().find(begun).unwrap_or(0);
    let rest = held.split_off(held.len() - keep);
    std::mem::replace(held, rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_found_however_it_is_cut_up() {
        let text = b"version:7.0 and version:7.2, ver";
        for cut in 0..text.len() {
            let (mut held, mut out) = (Vec::new(), Vec::new());
            for part in [&text[..cut], &text[cut..]] {
                held.extend_from_slice(part);
                out.extend(rewrite(&mut held, b"version:7.", b"version:6."));
            }
            out.extend(held);
            assert_eq!(out, b"version:6.0 and version:6.2, ver", "at {cut}");
        }
    }

    #[test]
    fn cut_and_mended() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let relay = Relay::to(server.local_addr().unwrap().port()).unwrap();
        let connect = || TcpStream::connect(("127.0.0.1", relay.port())).unwrap();
        let mut octet = [0];

        let mut client = connect();
        let (mut served, _) = server.accept().unwrap();
        client.write_all(b"a").unwrap();
        served.read_exact(&mut octet).unwrap();
        assert_eq!(&octet, b"a");

        relay.cut();
        // A reset is as good as an end.
        assert_eq!(client.read(&mut octet).unwrap_or(0), 0);
        assert_eq!(served.read(&mut octet).unwrap_or(0), 0);
        assert_eq!(connect().read(&mut octet).unwrap_or(0), 0);

        relay.mend();
        let mut client = connect();
        let (mut served, _) = server.accept().unwrap();
        served.write_all(b"b").unwrap();
        client.read_exact(&mut octet).unwrap();
        assert_eq!(&octet, b"b");
    }
}
