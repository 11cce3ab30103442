//! A way between two parts that can be cut: a TCP relay.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::history::FaultKind;

/// `None` passes everything on.
type Mode = Option<FaultKind>;

/// A relay on a port of its own.
#[derive(Debug)]
pub struct Link {
    address: SocketAddr,
    mode: watch::Sender<Mode>,
    acceptor: JoinHandle<()>,
}

impl Link {
    /// A relay to `target`; it listens when this returns.
    ///
    /// # Errors
    ///
    /// If its port cannot be listened on.
    pub fn start(runtime: &Handle, target: SocketAddr) -> std::io::Result<Self> {
        let address = SocketAddr::from(([127, 0, 0, 1], idempotency_stack::ports::free()));
        let listener = runtime.block_on(TcpListener::bind(address))?;
        let (sender, mode) = watch::channel(None);
        let acceptor = runtime.spawn(accept(listener, target, mode));
        Ok(Self {
            address,
            mode: sender,
            acceptor,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Cuts it: [`FaultKind::Refuse`], [`FaultKind::Reset`] or [`FaultKind::Stall`].
    pub fn cut(&self, kind: FaultKind) {
        self.mode.send_replace(Some(kind));
    }

    /// Passes everything on again.
    pub fn heal(&self) {
        self.mode.send_replace(None);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.acceptor.abort();
    }
}

async fn accept(listener: TcpListener, target: SocketAddr, mut mode: watch::Receiver<Mode>) {
    let Ok(address) = listener.local_addr() else {
        return;
    };
    let mut listener = Some(listener);
    loop {
        let now = *mode.borrow_and_update();
        if now == Some(FaultKind::Refuse) {
            // A closed port, not an accepting one that hangs up.
            listener = None;
            if mode.changed().await.is_err() {
                return;
            }
            continue;
        }
        let Some(open) = &listener else {
            match TcpListener::bind(address).await {
                Ok(open) => listener = Some(open),
                // Somebody else's connection may leave the port in a moment.
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
            continue;
        };
        tokio::select! {
            changed = mode.changed() => if changed.is_err() { return },
            accepted = open.accept() => if let Ok((stream, _)) = accepted {
                tokio::spawn(relay(stream, target, mode.clone()));
            },
        }
    }
}

fn cuts(mode: &Mode) -> bool {
    matches!(mode, Some(FaultKind::Refuse | FaultKind::Reset))
}

/// Ends a connection with a reset.
fn reset(stream: &TcpStream) {
    let _ = stream.set_zero_linger();
}

async fn relay(mut client: TcpStream, target: SocketAddr, mut mode: watch::Receiver<Mode>) {
    let _ = client.set_nodelay(true);
    // Nothing gets through, a connection neither.
    let Ok(now) = mode
        .wait_for(|m| *m != Some(FaultKind::Stall))
        .await
        .map(|m| *m)
    else {
        return;
    };
    let server = if cuts(&now) {
        None
    } else {
        TcpStream::connect(target).await.ok()
    };
    let Some(mut server) = server else {
        reset(&client);
        return;
    };
    let _ = server.set_nodelay(true);
    let whole = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let both = async {
            tokio::try_join!(
                pump(from_client, to_server, mode.clone()),
                pump(from_server, to_client, mode.clone()),
            )
        };
        let mut cut = mode.clone();
        tokio::select! {
            ended = both => ended.is_ok(),
            _ = cut.wait_for(cuts) => false,
        }
    };
    if !whole {
        reset(&client);
        reset(&server);
    }
}

/// Moves octets in one direction; `Err` if the connection broke.
async fn pump(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mut mode: watch::Receiver<Mode>,
) -> Result<(), ()> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let size = from.read(&mut buffer).await.map_err(drop)?;
        mode.wait_for(|mode| *mode != Some(FaultKind::Stall))
            .await
            .map_err(drop)?;
        let Some(octets) = buffer.get(..size).filter(|octets| !octets.is_empty()) else {
            return to.shutdown().await.map_err(drop);
        };
        to.write_all(octets).await.map_err(drop)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On a thread of its own, since it blocks.
    async fn link(target: SocketAddr) -> Link {
        let runtime = Handle::current();
        let started = tokio::task::spawn_blocking(move || Link::start(&runtime, target));
        started.await.unwrap().unwrap()
    }

    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.split();
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                });
            }
        });
        address
    }

    async fn connect(link: &Link) -> std::io::Result<TcpStream> {
        let mut last = TcpStream::connect(link.address()).await;
        // The listener may be about to open.
        for _ in 0..500 {
            if last.is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
            last = TcpStream::connect(link.address()).await;
        }
        last
    }

    async fn ping(stream: &mut TcpStream) -> std::io::Result<()> {
        stream.write_all(b"ping").await?;
        let mut octets = [0; 4];
        stream.read_exact(&mut octets).await.map(drop)
    }

    #[tokio::test]
    async fn passes_cuts_and_passes_again() {
        let link = link(echo().await).await;
        let mut stream = TcpStream::connect(link.address()).await.unwrap();
        ping(&mut stream).await.unwrap();

        link.cut(FaultKind::Reset);
        assert!(ping(&mut stream).await.is_err());
        let mut next = connect(&link).await.unwrap();
        assert!(ping(&mut next).await.is_err());

        link.heal();
        let mut stream = connect(&link).await.unwrap();
        ping(&mut stream).await.unwrap();

        link.cut(FaultKind::Refuse);
        assert!(ping(&mut stream).await.is_err());
        while TcpStream::connect(link.address()).await.is_ok() {}
        link.heal();
        ping(&mut connect(&link).await.unwrap()).await.unwrap();
    }

    #[tokio::test]
    async fn a_stalled_way_delivers_later() {
        let link = link(echo().await).await;
        let mut stream = connect(&link).await.unwrap();
        ping(&mut stream).await.unwrap();
        link.cut(FaultKind::Stall);
        stream.write_all(b"late").await.unwrap();
        let mut octets = [0; 4];
        let early = stream.read_exact(&mut octets);
        let early = tokio::time::timeout(Duration::from_millis(200), early).await;
        assert!(early.is_err(), "it got through");
        link.heal();
        stream.read_exact(&mut octets).await.unwrap();
        assert_eq!(&octets, b"late");
    }
}
