//! Arguments of `idempotencyd keys`.

use crate::config::Millis;
use clap::{Args, Subcommand, ValueEnum};
use idempotency_client::ServiceUrl;
use std::path::PathBuf;

/// `idempotencyd keys`.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 done, 1 the service cannot be reached or failed, 2 usage, \
                        3 no such key, 4 the record has changed or is executing, 5 not allowed."
)]
pub(crate) struct Keys {
    #[command(subcommand)]
    pub(super) command: Command,

    /// Where the service is: http://host:port or unix:/path
    #[arg(
        long,
        global = true,
        env = "IDEMPOTENCYD_URL",
        value_name = "URL",
        default_value = "http://127.0.0.1:7480"
    )]
    pub(super) url: ServiceUrl,

    /// Token of the operator role
    #[arg(
        long,
        global = true,
        env = "IDEMPOTENCYD_TOKEN",
        value_name = "TOKEN",
        hide_env_values = true
    )]
    pub(super) token: Option<String>,

    /// File whose first token line is shown; keeps the token out of the process list
    #[arg(
        long,
        global = true,
        env = "IDEMPOTENCYD_TOKEN_FILE",
        value_name = "PATH",
        conflicts_with = "token"
    )]
    pub(super) token_file: Option<PathBuf>,

    /// How long to wait for the service
    #[arg(long, global = true, value_name = "TIME", default_value = "10s")]
    pub(super) timeout: Millis,

    /// Why, for the service's audit log
    #[arg(long, global = true, value_name = "TEXT")]
    pub(super) reason: Option<String>,

    /// Print the service's JSON as it is
    #[arg(long, global = true)]
    pub(super) json: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Show one record
    Get(Key),
    /// List records, in key order
    List(List),
    /// Set a record to completed or failed
    Resolve(Box<Resolve>),
    /// Forget a record: the next request with this key executes
    Delete(Delete),
}

#[derive(Clone, Debug, Args)]
pub(super) struct Key {
    /// The idempotency key, without quotes
    pub(super) key: String,
    /// The tenant; empty for rules with global scope
    #[arg(long, default_value = "")]
    pub(super) tenant: String,
    /// The namespace of the rule
    #[arg(long, default_value = "")]
    pub(super) namespace: String,
    /// Who made the key
    #[arg(long, value_enum, default_value_t = OriginArg::Client)]
    pub(super) origin: OriginArg,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum OriginArg {
    Client,
    Derived,
}

impl OriginArg {
    pub(super) fn name(self) -> &'static str {
        match self {
            OriginArg::Client => "client",
            OriginArg::Derived => "derived",
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum StateArg {
    Executing,
    Completed,
    Failed,
    Unknown,
}

#[derive(Debug, Args)]
pub(super) struct List {
    /// Only this tenant
    #[arg(long)]
    pub(super) tenant: Option<String>,
    /// Only this namespace
    #[arg(long)]
    pub(super) namespace: Option<String>,
    /// Only this state
    #[arg(long, value_enum)]
    pub(super) state: Option<StateArg>,
    /// Longest page
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(super) limit: u16,
    /// Where the previous page ended
    #[arg(long)]
    pub(super) after: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct Change {
    /// The version that `get` showed; if the record has another one, nothing happens
    #[arg(long)]
    pub(super) version: u64,
    /// Also while an execution holds a live lease; it may still take effect
    #[arg(long)]
    pub(super) force: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum To {
    Completed,
    Failed,
}

#[derive(Debug, Args)]
pub(super) struct Resolve {
    #[command(flatten)]
    pub(super) key: Key,
    #[command(flatten)]
    pub(super) change: Change,
    /// What the record becomes
    #[arg(long, value_enum)]
    pub(super) to: To,
    /// Status to replay, with --to completed
    #[arg(long, required_if_eq("to", "completed"))]
    pub(super) status: Option<u16>,
    /// Header to replay, `name: value`; several allowed, in order
    #[arg(long = "header", value_name = "HEADER")]
    pub(super) headers: Vec<String>,
    /// File with the body to replay (UTF-8; `-`: standard input)
    #[arg(long, value_name = "PATH")]
    pub(super) body_file: Option<PathBuf>,
    /// There is nothing to replay: retries are told that it was done, and no more
    #[arg(long, conflicts_with_all = ["headers", "body_file"])]
    pub(super) tombstone: bool,
}

#[derive(Debug, Args)]
pub(super) struct Delete {
    #[command(flatten)]
    pub(super) key: Key,
    #[command(flatten)]
    pub(super) change: Change,
}
