//! Servers, clients and messages for the tests.

pub mod child;
pub mod client;
pub mod frames;
pub mod gate;
pub mod http2;
pub mod shared;
pub mod tls;

pub use child::Child;
pub use client::{Client, Tunnel};
pub use frames::*;
pub use gate::Gate;
pub(crate) use shared::on_shared_stores;
pub use shared::Shared;

use idempotency_service::{Config, Server, Settings};
use idempotency_store::Store;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub const GATEWAY: &str = "gateway-secret-0123";
pub const UPSTREAM: &str = "upstream-secret-0123";
pub const OPERATOR: &str = "operator-secret-0123";

/// Longest time that anything in a test may take.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Settings with a free port and a token for each role.
pub fn settings() -> Settings {
    Settings {
        listen: vec!["127.0.0.1:0".into()],
        store: Some("memory".into()),
        gateway_tokens: vec![format!("gw:{GATEWAY}")],
        upstream_tokens: vec![format!("up:{UPSTREAM}")],
        operator_tokens: vec![format!("alice:{OPERATOR}")],
        ..Settings::default()
    }
}

/// A server in this process.
pub struct TestServer {
    pub address: SocketAddr,
    pub socket: PathBuf,
    /// Where the operators' page is, if there is one.
    pub page: Option<SocketAddr>,
    pub reloader: idempotency_service::server::Reloader,
    stop: Option<oneshot::Sender<()>>,
    running: Option<JoinHandle<()>>,
    _dir: tempfile::TempDir,
}

impl TestServer {
    pub async fn start() -> TestServer {
        TestServer::with(settings()).await
    }

    /// One on the store that the settings name. Its address leads nowhere if they name Unix sockets
    /// alone.
    pub async fn with(settings: Settings) -> TestServer {
        TestServer::begin(settings, None).await
    }

    pub async fn on(settings: Settings, store: Arc<dyn Store>) -> TestServer {
        TestServer::begin(settings, Some(store)).await
    }

    async fn begin(mut settings: Settings, store: Option<Arc<dyn Store>>) -> TestServer {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        settings.listen.push(format!("unix:{}", socket.display()));
        let config: Config = settings.check().unwrap();
        let store = match store {
            Some(store) => store,
            None => config.open_store().await.unwrap(),
        };
        let server = Server::bind(config, store).await.unwrap();
        let address = server.addresses()[0].to_string().parse();
        let address = address.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 0)));
        let page = server.ui_addresses().first().map(ToString::to_string);
        let page = page.map(|address| address.parse().unwrap());
        let reloader = server.reloader();
        let (stop, stopped) = oneshot::channel();
        let running = tokio::spawn(async move {
            let stopped = async {
                let _ = stopped.await;
            };
            server.run(stopped).await.unwrap();
        });
        TestServer {
            address,
            socket,
            page,
            reloader,
            stop: Some(stop),
            running: Some(running),
            _dir: dir,
        }
    }

    pub fn client(&self) -> Client {
        Client::tcp(self.address)
    }

    /// Asks it to stop, without waiting.
    pub fn ask_to_stop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
    }

    /// Stops it, and waits.
    pub async fn stop(&mut self) {
        self.ask_to_stop();
        if let Some(running) = self.running.take() {
            tokio::time::timeout(PATIENCE, running)
                .await
                .unwrap()
                .unwrap();
        }
    }

    /// The value of a metric; labels are part of the name.
    pub async fn metric(&self, name: &str) -> u64 {
        let reply = self.client().get("/metrics").await;
        metric(&reply.text(), name)
    }
}

pub fn metric(text: &str, name: &str) -> u64 {
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
        .unwrap_or(0)
}

/// Waits until a condition holds.
pub async fn eventually<F, T>(what: &str, mut condition: F)
where
    F: FnMut() -> T,
    T: std::future::Future<Output = bool>,
{
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !condition().await {
        assert!(
            tokio::time::Instant::now() < deadline,
            "never happened: {what}"
        );
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
