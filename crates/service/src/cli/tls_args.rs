//! Arguments of commands that call a service over TLS.

use clap::Args;
use idempotency_client::{CallError, Client, TlsFiles};
use std::path::PathBuf;

/// What an `https` address needs.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct TlsArgs {
    /// Certificates of the authorities that may vouch for the service, PEM
    /// [default: those of the machine]
    #[arg(long, global = true, env = "IDEMPOTENCYD_CA", value_name = "PATH")]
    ca: Option<PathBuf>,

    /// Client certificate to show, PEM
    #[arg(
        long,
        global = true,
        env = "IDEMPOTENCYD_CLIENT_CERT",
        value_name = "PATH",
        requires = "client_key"
    )]
    client_cert: Option<PathBuf>,

    /// Its private key, PEM
    #[arg(
        long,
        global = true,
        env = "IDEMPOTENCYD_CLIENT_KEY",
        value_name = "PATH",
        requires = "client_cert"
    )]
    client_key: Option<PathBuf>,
}

impl TlsArgs {
    /// The client with these files.
    pub(super) fn of(&self, client: Client) -> Result<Client, CallError> {
        let files = TlsFiles {
            ca: self.ca.clone(),
            cert: self.client_cert.clone(),
            key: self.client_key.clone(),
        };
        // Without any, the authorities of the machine are read when they are needed.
        match files == TlsFiles::default() {
            true => Ok(client),
            false => client.tls(files),
        }
    }
}
