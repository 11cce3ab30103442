//! A socket for what an ordinary client does not do.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::answer::{Answer, Broken};
use crate::gap;
use crate::parse::{self, Parsed};
use crate::request::Request;

/// How long [`Wire`] waits for what it is told to wait for.
const PATIENCE: Duration = Duration::from_secs(60);

/// A connection to the gateway whose every byte the test decides on.
#[derive(Debug)]
pub struct Wire {
    /// What was sent, if it is one request and nothing else.
    request: Option<Request>,
    stream: TcpStream,
    received: Vec<u8>,
    closed: Option<String>,
}

impl Wire {
    /// Connects.
    ///
    /// # Panics
    ///
    /// If nobody listens there.
    pub fn connect(address: SocketAddr) -> Self {
        let connected = TcpStream::connect(address).and_then(|stream| {
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(Duration::from_millis(20)))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            Ok(stream)
        });
        match connected {
            Ok(stream) => Self {
                request: None,
                stream,
                received: Vec::new(),
                closed: None,
            },
            Err(error) => panic!("cannot connect to {address}: {error}"),
        }
    }

    /// Connects and sends a request.
    pub(crate) fn with(address: SocketAddr, request: &Request) -> Self {
        let mut wire = Self::connect(address);
        wire.send(request.bytes());
        wire.request = Some(request.clone());
        wire
    }

    /// Sends some bytes.
    ///
    /// # Panics
    ///
    /// If the gateway has closed the connection.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        if let Err(error) = self.try_send(bytes) {
            panic!(
                "cannot send to the gateway: {error}; it had said: {}",
                String::from_utf8_lossy(&self.received)
            );
        }
    }

    /// As [`Self::send`], where the gateway may answer and close before it has read everything.
    ///
    /// # Errors
    ///
    /// If the gateway has closed the connection.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        self.stream.write_all(bytes.as_ref())
    }

    /// Everything received and not yet taken by [`Self::answer`].
    pub fn received(&self) -> &[u8] {
        &self.received
    }

    /// Reads until `condition` holds of everything received; `false` if the gateway closes the
    /// connection before.
    ///
    /// # Panics
    ///
    /// If neither happens within a minute; the message names `what`.
    pub fn read_until(&mut self, what: &str, mut condition: impl FnMut(&[u8]) -> bool) -> bool {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if condition(&self.received) {
                return true;
            }
            if self.closed.is_some() {
                return false;
            }
            assert!(
                Instant::now() < deadline,
                "waited {PATIENCE:?} for {what}; received: {}",
                String::from_utf8_lossy(&self.received)
            );
            self.read_some();
        }
    }

    /// Reads the next whole answer.
    ///
    /// # Panics
    ///
    /// If there is none.
    pub fn answer(&mut self) -> Answer {
        match self.try_answer(false) {
            Ok(answer) => answer,
            Err(broken) => panic!("no whole answer: {broken:?}"),
        }
    }

    /// Reads the next answer to a `HEAD`.
    ///
    /// # Panics
    ///
    /// If there is none.
    pub fn head_answer(&mut self) -> Answer {
        match self.try_answer(true) {
            Ok(answer) => answer,
            Err(broken) => panic!("no whole answer: {broken:?}"),
        }
    }

    /// Reads the next answer, which may be cut. `head_only`: the answer to a `HEAD`.
    ///
    /// # Errors
    ///
    /// Without a whole answer.
    ///
    /// # Panics
    ///
    /// If the connection stays open and silent for a minute, or says what is no HTTP.
    pub fn try_answer(&mut self, head_only: bool) -> Result<Answer, Broken> {
        let Some(request) = self.request.clone() else {
            return self.next_answer(head_only);
        };
        let mut sent = true;
        gap::bridge(&request, || {
            if !std::mem::take(&mut sent) {
                // Should it be closed behind the answer, reading says so.
                let _ = self.try_send(request.bytes());
            }
            self.next_answer(head_only)
        })
    }

    fn next_answer(&mut self, head_only: bool) -> Result<Answer, Broken> {
        let mut seen = usize::MAX;
        self.read_until("a whole answer", |received| {
            // Parsing is worth it only when something is new.
            let changed = std::mem::replace(&mut seen, received.len()) != received.len();
            changed && matches!(parsed(received, head_only, false), Parsed::Whole(..))
        });
        match parsed(&self.received, head_only, self.closed.is_some()) {
            Parsed::Whole(answer, length) => {
                self.received.drain(..length);
                Ok(answer)
            }
            Parsed::Partial(partial) => Err(Broken {
                partial,
                why: self.closed.clone().unwrap_or_default(),
            }),
        }
    }

    /// Reads until the gateway closes the connection; everything that was not taken as an answer.
    ///
    /// # Panics
    ///
    /// If it does not within a minute.
    pub fn rest(mut self) -> Vec<u8> {
        self.read_until("the gateway to close the connection", |_| false);
        self.received
    }

    /// Says that no more will be sent, and goes on reading.
    pub fn finish(&self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Hangs up in an orderly way.
    pub fn hang_up(self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    /// Hangs up with a reset: what was not delivered is lost.
    pub fn reset(self) {
        let _ = socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
    }

    fn read_some(&mut self) {
        let mut piece = [0; 64 * 1024];
        match self.stream.read(&mut piece) {
            Ok(0) => self.closed = Some("closed by the gateway".to_owned()),
            Ok(size) => self
                .received
                .extend_from_slice(piece.get(..size).unwrap_or_default()),
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                ) => {}
            Err(error) => self.closed = Some(error.to_string()),
        }
    }
}

fn parsed(received: &[u8], head_only: bool, closed: bool) -> Parsed {
    match parse::answer(received, head_only, closed) {
        Ok(parsed) => parsed,
        Err(error) => panic!("{error} in {}", String::from_utf8_lossy(received)),
    }
}
