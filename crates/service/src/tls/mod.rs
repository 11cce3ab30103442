//! TLS of the listeners: certificates, who the clients are, and files that change while the service runs.
//!
//! The files are read again on SIGHUP and every [`LOOK`]. Reading is what finds every kind of replacement: a file
//! written anew, one renamed over another, and the links that Kubernetes swaps. What cannot be used changes nothing.

mod failure;
mod files;
mod identity;
mod roles;

pub(crate) use failure::HandshakeFailure;
pub use files::{ClientAuth, Loaded, MinVersion, TlsOptions};
pub use identity::{Identity, San};
pub use roles::Roles;

use crate::api::App;
use files::Wrong;
use rustls::ServerConfig;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

/// Between two looks at the files.
const LOOK: Duration = Duration::from_secs(2);
/// Certificate and key may be replaced one after the other: so long is waited for the second one.
const SETTLE: Duration = Duration::from_millis(500);

/// The TLS of a server.
pub(crate) struct Tls {
    options: TlsOptions,
    current: RwLock<Arc<Loaded>>,
    /// What was found last and cannot be used. Locked while the files are read, so that one reads at a time.
    refused: Mutex<Option<[u8; 32]>>,
    /// There is such a thing.
    refusing: AtomicBool,
}

/// What a look at the files found.
pub(crate) enum Found {
    /// What is in force already, or what was refused and told before.
    Nothing,
    /// Something new, which is in force from now on.
    New(Arc<Loaded>),
    /// Something that cannot be used, and why; what was in force stays.
    Refused(Vec<String>),
}

impl TlsOptions {
    /// Reads the files for the first time.
    ///
    /// # Errors
    ///
    /// All that is wrong, with the names of the settings.
    pub fn open(&self) -> Result<Arc<Loaded>, Vec<(&'static str, String)>> {
        self.load().map(Arc::new).map_err(|(wrong, _)| wrong)
    }
}

impl Tls {
    pub(crate) fn new(options: TlsOptions, loaded: Arc<Loaded>) -> Tls {
        Tls {
            options,
            current: RwLock::new(loaded),
            refused: Mutex::default(),
            refusing: AtomicBool::new(false),
        }
    }

    /// What is in force.
    pub(crate) fn current(&self) -> Arc<Loaded> {
        let current = self.current.read();
        current.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How to answer a handshake now.
    pub(crate) fn config(&self, page: bool) -> Arc<ServerConfig> {
        let current = self.current();
        if page {
            current.page.clone()
        } else {
            current.api.clone()
        }
    }

    /// Clients are asked for a certificate.
    pub(crate) fn asks_for_certificates(&self) -> bool {
        self.options.client_ca.is_some()
    }

    /// The newest files cannot be used.
    pub(crate) fn is_refusing(&self) -> bool {
        self.refusing.load(Relaxed)
    }

    /// Reads the files and puts them in force. `asked`: somebody waits for an answer, so what was told before is
    /// told again, and files that do not fit are not waited for.
    fn look(&self, asked: bool) -> Found {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let mut read = self.usable();
        if let (Err((_, digest)), false) = (&read, asked) {
            if *refused == Some(*digest) {
                return Found::Nothing;
            }
            std::thread::sleep(SETTLE);
            read = self.usable();
        }
        self.refusing.store(read.is_err(), Relaxed);
        match read {
            Ok(loaded) if loaded.digest == self.current().digest => {
                *refused = None;
                Found::Nothing
            }
            Ok(loaded) => {
                let loaded = Arc::new(loaded);
                let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
                *current = loaded.clone();
                *refused = None;
                Found::New(loaded)
            }
            Err((wrong, digest)) => {
                *refused = Some(digest);
                let told = |(field, message)| format!("{field}: {message}");
                Found::Refused(wrong.into_iter().map(told).collect())
            }
        }
    }

    /// What the files hold, if it is better than nothing: a certificate that is over is not.
    fn usable(&self) -> Result<Loaded, (Vec<Wrong>, [u8; 32])> {
        let loaded = self.options.load()?;
        let is_new = loaded.digest != self.current().digest;
        if is_new && loaded.has_ended() {
            let message = format!("{}: has expired", self.options.cert.display());
            return Err((vec![("tls_cert", message)], loaded.digest));
        }
        Ok(loaded)
    }
}

impl Loaded {
    /// The service's own certificate is over.
    pub(crate) fn has_ended(&self) -> bool {
        let server = self.ends.iter().find(|(name, _)| *name == "server");
        server.is_some_and(|(_, end)| *end < identity::now())
    }
}

/// Looks at the files once, and says and counts what became of it.
pub(crate) fn reload(app: &App, asked: bool) -> Result<(), Vec<String>> {
    let Some(tls) = &app.tls else {
        return Ok(());
    };
    match tls.look(asked) {
        Found::Nothing => Ok(()),
        Found::New(loaded) => {
            app.set_roles(loaded.roles.clone());
            app.metrics.tls.reloaded(true);
            for (certificate, end) in &loaded.ends {
                let ends_in_s = end.saturating_sub(identity::now());
                tracing::info!(certificate, ends_in_s, "certificates read again");
            }
            Ok(())
        }
        Found::Refused(errors) => {
            app.metrics.tls.reloaded(false);
            for error in &errors {
                tracing::error!(
                    error,
                    "certificates not replaced: the old ones stay in force"
                );
            }
            Err(errors)
        }
    }
}

/// Looks at the files now and then, until the server stops.
pub(crate) async fn watch(app: Arc<App>) {
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = app.stopping.cancelled() => return,
            _ = looks.tick() => {}
        }
        let looking = app.clone();
        // On a thread for work that may take long: a file system may hang.
        let look = tokio::task::spawn_blocking(move || reload(&looking, false).is_ok());
        tokio::select! {
            () = app.stopping.cancelled() => return,
            _ = look => {}
        }
    }
}
