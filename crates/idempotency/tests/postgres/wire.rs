//! A relay that understands as much of PostgreSQL's protocol as it takes to see a COMMIT pass, and does with it what
//! a test says.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// What becomes of a COMMIT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Commits {
    Pass,
    /// The connection is cut before the server has it.
    CutBefore,
    /// It is cut when the server has answered; the answer is lost.
    CutAfter,
    /// Neither the server gets it nor is anything cut, until the relay is dropped.
    HoldBefore,
    /// The server gets it; its answer is held until the relay is dropped.
    HoldAfter,
}

pub struct Wire {
    address: SocketAddr,
    rule: Arc<Mutex<Commits>>,
    /// How many COMMITs have met a rule.
    met: watch::Receiver<u32>,
    _tasks: JoinSet<()>,
}

impl Wire {
    pub async fn to(port: u16) -> Wire {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let rule = Arc::new(Mutex::new(Commits::Pass));
        let (meets, met) = watch::channel(0);
        let (meets, of_task) = (Arc::new(meets), Arc::clone(&rule));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let server = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                let (rule, meets) = (Arc::clone(&of_task), Arc::clone(&meets));
                connections.spawn(async move {
                    // Both ends are closed when it returns.
                    relay(client, server, &rule, &meets).await;
                });
            }
        });
        Wire {
            address,
            rule,
            met,
            _tasks: tasks,
        }
    }

    /// The URL of a database by this way.
    pub fn url(&self, database: &str) -> String {
        format!(
            "postgres://postgres@{}/{database}?sslmode=disable",
            self.address
        )
    }

    pub fn set(&self, rule: Commits) {
        *self.rule.lock().unwrap() = rule;
    }

    /// Until a COMMIT has met the rule.
    pub async fn has_met(&mut self) {
        let wait = self.met.wait_for(|met| *met > 0);
        let longest = std::time::Duration::from_secs(20);
        let met = tokio::time::timeout(longest, wait).await;
        met.expect("a COMMIT").unwrap();
    }
}

async fn relay(
    client: TcpStream,
    server: TcpStream,
    rule: &Mutex<Commits>,
    meets: &watch::Sender<u32>,
) {
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let (mute, is_mute) = watch::channel(Commits::Pass);
    tokio::select! {
        _ = requests(from_client, to_server, rule, &mute, meets) => {}
        _ = answers(from_server, to_client, is_mute, meets) => {}
    }
}

async fn requests(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    rule: &Mutex<Commits>,
    mute: &watch::Sender<Commits>,
    meets: &watch::Sender<u32>,
) -> std::io::Result<()> {
    let mut begun = false;
    loop {
        let mut message = Vec::new();
        if begun {
            message.push(from.read_u8().await?);
        }
        let length = from.read_u32().await?;
        message.extend_from_slice(&length.to_be_bytes());
        let head = message.len();
        message.resize(head + length as usize - 4, 0);
        from.read_exact(&mut message[head..]).await?;
        if !begun {
            const SSL_REQUEST: [u8; 4] = 80_877_103_u32.to_be_bytes();
            begun = message[head..] != SSL_REQUEST;
        } else if message[0] == b'Q' && message[head..].starts_with(b"COMMIT") {
            let rule = *rule.lock().unwrap();
            match rule {
                Commits::Pass => {}
                Commits::CutBefore => {
                    meets.send_modify(|met| *met += 1);
                    return Ok(());
                }
                Commits::HoldBefore => {
                    meets.send_modify(|met| *met += 1);
                    std::future::pending::<()>().await;
                }
                Commits::CutAfter | Commits::HoldAfter => {
                    mute.send_replace(rule);
                }
            }
        }
        to.write_all(&message).await?;
    }
}

/// `ReadyForQuery`, outside of a transaction: the COMMIT has been answered.
const NO_TRANSACTION: &[u8] = b"Z\0\0\0\x05I";

async fn answers(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mute: watch::Receiver<Commits>,
    meets: &watch::Sender<u32>,
) -> std::io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    let mut kept_back = Vec::new();
    loop {
        let size = from.read(&mut buffer).await?;
        if size == 0 {
            return Ok(());
        }
        let rule = *mute.borrow();
        if rule != Commits::Pass {
            // What was sent together with the COMMIT is answered first. A server that cannot send that answer may roll
            // back before it comes to the COMMIT.
            kept_back.extend_from_slice(&buffer[..size]);
            if !kept_back
                .windows(NO_TRANSACTION.len())
                .any(|part| part == NO_TRANSACTION)
            {
                continue;
            }
            meets.send_modify(|met| *met += 1);
            if rule == Commits::HoldAfter {
                std::future::pending::<()>().await;
            }
            return Ok(());
        }
        to.write_all(&buffer[..size]).await?;
    }
}
