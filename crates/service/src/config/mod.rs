//! Configuration: flags, environment and file become [`Settings`]; checked, they become a
//! [`Config`].

mod file;
mod fit;
mod listen;
pub mod otel;
mod settings;
mod units;
mod validate;

pub use file::{read_file, FileError};
pub use listen::Listen;
pub use settings::{DurabilityMode, LogFormat, Settings, TokenFiles};
pub use units::{Millis, Mode, Size};

use crate::api::door::Hosts;
use crate::auth::{Authority, Tokens};
use crate::backend::StoreChoice;
use crate::encryption::KeyKeeper;
use crate::server::ServerError;
use crate::tls::{ClientAuth, Loaded, TlsOptions};
use idempotency_store::{Quotas, Store, WaiterCaps};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// A checked configuration: every value in it is usable as it stands.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen; at least one.
    pub listen: Vec<Listen>,
    /// Where the operators' page is served, and nothing else; empty: nowhere.
    pub ui_listen: Vec<Listen>,
    /// Nothing can be changed through that page.
    pub ui_read_only: bool,
    /// Permissions of Unix sockets.
    pub socket_mode: u32,
    /// Written once all listeners are open.
    pub ready_file: Option<PathBuf>,
    /// Which store, and how.
    pub store: StoreChoice,
    /// The keys of encryption at rest; `None`: records are in clear.
    pub keys: Option<Arc<KeyKeeper>>,
    /// Bearer tokens by role, those of files included.
    pub tokens: Tokens,
    /// The tokens that did not come from files.
    pub inline_tokens: Tokens,
    /// Files that tokens came from; read again on SIGHUP.
    pub token_files: TokenFiles,
    /// Nobody configured a token of gateways: this file holds the one that the service makes.
    pub made_token: Option<PathBuf>,
    /// Roles without tokens are open where [`crate::auth`] says so.
    pub insecure_no_auth: bool,
    /// Certificates, keys and roles, where listeners speak TLS; and what was read of them.
    pub tls: Option<(TlsOptions, Arc<Loaded>)>,
    /// By which names callers without a valid token may call.
    pub hosts: Hosts,
    /// Bounds on what clients can make the service do.
    pub limits: Limits,
    /// Time between two sweeps.
    pub sweep_interval: Duration,
    /// Records per sweep batch.
    pub sweep_batch: usize,
    /// Shortest time between two counts of the records; `None`: they are not counted.
    pub census_interval: Option<Duration>,
    /// Longest graceful shutdown.
    pub shutdown_timeout: Duration,
    /// Operators' changes are appended here as JSON lines.
    pub audit_log: Option<PathBuf>,
    /// Where traces go; `None`: nowhere, they are off.
    pub traces: Option<TraceTarget>,
}

/// A collector of traces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceTarget {
    /// Its URL for OTLP over HTTP, with the path.
    pub endpoint: String,
}

impl Config {
    /// Who may call what, at the start.
    pub fn authority(&self) -> Authority {
        let authority = Authority::new(self.tokens.clone(), self.insecure_no_auth);
        match &self.tls {
            None => authority,
            Some((options, loaded)) => {
                let required = options.client_auth == ClientAuth::Required;
                authority.with_certificates(required, loaded.roles.clone())
            }
        }
    }
}

/// Bounds on what clients can make the service do.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Largest request body.
    pub max_body_bytes: usize,
    /// Bytes of all requests and answers of known callers that are held at the same time.
    pub max_buffered_bytes: usize,
    /// Operations in one call.
    pub max_batch: usize,
    /// Calls to `/v1/operations` inside the store at the same time.
    pub max_concurrent_calls: usize,
    /// Waits at the same time: in the whole process, for one tenant and for one key. The store
    /// keeps them: [`StoreChoice::open`] hands them on, and so must who opens one in another way.
    pub waiters: WaiterCaps,
    /// What one tenant may have in the store; handed on likewise.
    pub quotas: Quotas,
    /// Longest wait; longer ones are cut to this.
    pub max_wait: Duration,
    /// Open connections of each listener.
    pub max_connections: usize,
    /// Bytes that connections without a valid token hold, per listener.
    pub max_stranger_bytes: usize,
    /// From the first byte of a request to the end of its head; without a valid token, also from
    /// one request to the next.
    pub header_timeout: Duration,
    /// From one request to the next, with a valid token.
    pub idle_timeout: Duration,
    /// From an answer to its last byte taken.
    pub write_timeout: Duration,
    /// From the head of a request to its answer.
    pub request_timeout: Duration,
    /// From the head of a request to the end of its body.
    pub body_timeout: Duration,
}

impl Config {
    /// Opens the store, encrypted if there are keys, which are read for this.
    ///
    /// # Errors
    ///
    /// The keys cannot be read, or the store cannot be opened.
    pub async fn open_store(&self) -> Result<Arc<dyn Store>, ServerError> {
        let ring = match &self.keys {
            Some(keys) => Some(keys.load().await.map_err(ServerError::Keys)?),
            None => None,
        };
        Ok(self.store.open(&self.limits, ring).await?)
    }
}

impl Limits {
    /// How often a connection is looked at: often enough for its shortest limit.
    pub(crate) fn look_interval(&self) -> Duration {
        self.header_timeout
            .min(self.write_timeout)
            .min(self.request_timeout)
            .min(self.idle_timeout)
            .div_f64(4.0)
            .clamp(Duration::from_millis(5), Duration::from_millis(2500))
    }
}

/// One thing that is wrong with the settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingError {
    /// Name of the setting, as in a configuration file.
    pub field: String,
    /// What is wrong.
    pub message: String,
}

impl fmt::Display for SettingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}
