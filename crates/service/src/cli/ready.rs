//! `idempotencyd ready`: a health check for containers, which have no other HTTP client, and for
//! services that listen on a Unix socket only.

use crate::config::Millis;
use clap::Args;
use http::Method;
use idempotency_client::{Client, ServiceUrl};
use std::process::ExitCode;

/// `idempotencyd ready`.
#[derive(Debug, Args)]
#[command(after_help = "Exit codes: 0 ready, 1 not ready or not there, 2 usage.")]
pub(crate) struct Ready {
    /// Where the service is: http://host:port or unix:/path
    #[arg(
        long,
        env = "IDEMPOTENCYD_URL",
        value_name = "URL",
        default_value = "http://127.0.0.1:7480"
    )]
    url: ServiceUrl,

    /// How long to wait for the answer
    #[arg(long, value_name = "TIME", default_value = "3s")]
    timeout: Millis,
}

impl Ready {
    pub(crate) fn run(self) -> ExitCode {
        let client = Client::new(self.url).timeout(self.timeout.duration());
        let call = async { client.send(Method::GET, "/readyz", "", "").await };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let answer = match runtime {
            Ok(runtime) => runtime.block_on(call).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        match answer {
            Ok(answer) if answer.status == 200 => super::print("ready\n"),
            Ok(answer) => super::serve::fail_with(&String::from_utf8_lossy(&answer.body)),
            Err(message) => super::serve::fail_with(&message),
        }
    }
}
