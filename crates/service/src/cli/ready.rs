//! `idempotencyd ready`: a health check for containers, which have no other HTTP client, and for
//! services that listen on a Unix socket only.

use super::tls_args::TlsArgs;
use crate::config::Millis;
use clap::Args;
use http::Method;
use idempotency_client::{Client, ServiceUrl};
use std::process::ExitCode;

/// `idempotencyd ready`.
#[derive(Debug, Args)]
#[command(after_help = "Exit codes: 0 ready, 1 not ready or not there, 2 usage.")]
pub(crate) struct Ready {
    /// Where the service is: http://host:port, https://host:port or unix:/path
    #[arg(
        long,
        env = "IDEMPOTENCYD_URL",
        value_name = "URL",
        default_value = "http://127.0.0.1:7480"
    )]
    url: ServiceUrl,

    #[command(flatten)]
    tls: TlsArgs,

    /// How long to wait for the answer
    #[arg(long, value_name = "TIME", default_value = "3s")]
    timeout: Millis,
}

impl Ready {
    pub(crate) fn run(self) -> ExitCode {
        let shown = self.url.to_string();
        let client = Client::new(self.url).timeout(self.timeout.duration());
        let client = match self.tls.of(client) {
            Ok(client) => client,
            Err(error) => return super::serve::refuse(&[error.to_string()]),
        };
        let call = async { client.send(Method::GET, "/readyz", "", "").await };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let answer = match runtime {
            Ok(runtime) => runtime.block_on(call).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        match answer {
            Ok(answer) if answer.status == 200 => {
                super::print(&format!("The service at {shown} is ready.\n"))
            }
            Ok(answer) => {
                let why = super::call::problem(&answer);
                let why = why.trim_end();
                super::serve::fail_with(&format!("The service at {shown} is not ready: {why}"))
            }
            Err(message) => super::serve::fail_with(&format!(
                "The service at {shown} cannot be asked whether it is ready: {message}"
            )),
        }
    }
}
