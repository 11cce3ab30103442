//! Arguments of `idempotencyd keys`.

use super::output::Format;
use super::tls_args::TlsArgs;
use crate::config::Millis;
use clap::{Args, Subcommand, ValueEnum};
use idempotency_client::ServiceUrl;
use std::path::PathBuf;

/// `idempotencyd keys`.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 done, 1 the service cannot be reached or failed, 2 usage, \
                        3 no such key, 4 a record has changed or is executing, 5 not allowed, \
                        6 not confirmed: nothing was changed."
)]
pub(crate) struct Keys {
    #[command(subcommand)]
    pub(super) command: KeyCommand,

    /// Where the service is: http://host:port, https://host:port or unix:/path
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

    #[command(flatten)]
    pub(super) tls: TlsArgs,

    /// How long to wait for each answer of the service
    #[arg(long, global = true, value_name = "TIME", default_value = "10s")]
    pub(super) timeout: Millis,

    /// Why, for the service's audit log; a change needs one
    #[arg(long, global = true, value_name = "TEXT")]
    pub(super) reason: Option<String>,

    /// How to print: for people, as one JSON document, or as one JSON object per line
    #[arg(
        short,
        long,
        global = true,
        value_name = "FORMAT",
        default_value = "table"
    )]
    pub(super) output: Format,

    /// The same as --output json
    #[arg(long, global = true, hide = true)]
    pub(super) json: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum KeyCommand {
    /// Show one record
    #[command(alias = "get")]
    Show(Show),
    /// List records that match
    List(List),
    /// Find records by a key or the beginning of one, by the id that logs name it by, by a request
    /// id or by a trace id, over all tenants
    Find(Find),
    /// Set one record, or all that match, to completed or failed
    Resolve(Box<Resolve>),
    /// Forget one record, or all that match: the next request with its key executes
    Delete(Box<Delete>),
    /// Seal all records with the newest encryption key: those of older keys, and those in clear
    Rewrap(Rewrap),
    /// Forget all records of a tenant, and have them leave the files of an embedded store
    Erase(Erase),
}

#[derive(Debug, Args)]
pub(super) struct Rewrap {
    /// Records of one batch
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(super) batch: u16,
    /// Passes over all records, where some are busy
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    pub(super) passes: u16,
    /// Then have what was in clear, or sealed with an older key, leave the files of an embedded store
    #[arg(long)]
    pub(super) scrub: bool,
}

#[derive(Debug, Args)]
pub(super) struct Erase {
    /// The tenant; the empty one is that of rules with global scope
    #[arg(long)]
    pub(super) tenant: String,
    /// Only say what would happen
    #[arg(long, conflicts_with = "yes")]
    pub(super) dry_run: bool,
    /// Do it without a question. Without this, and without a terminal to ask on, nothing is changed
    #[arg(long)]
    pub(super) yes: bool,
}

impl Erase {
    /// All records of the tenant, those too that execute.
    pub(super) fn change(&self) -> Change {
        Change {
            key: None,
            tenant: Tenant {
                tenant: Some(self.tenant.clone()),
                ..Tenant::default()
            },
            origin: OriginArg::Client,
            version: None,
            filter: Filter::default(),
            all: false,
            most: usize::MAX - 1,
            force: true,
            dry_run: self.dry_run,
            yes: self.yes,
        }
    }
}

/// Whose records.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct Tenant {
    /// The tenant; the empty one is that of rules with global scope
    #[arg(long)]
    pub(super) tenant: Option<String>,
    /// The tenant of these credentials, where the scope is the caller's credentials: a file with the
    /// value of the Authorization header, such as `Bearer abc`
    #[arg(long, value_name = "PATH", conflicts_with = "tenant")]
    pub(super) credential_file: Option<PathBuf>,
    /// The namespace of the rule
    #[arg(long)]
    pub(super) namespace: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct Show {
    /// The idempotency key, without quotes
    pub(super) key: String,
    #[command(flatten)]
    pub(super) tenant: Tenant,
    /// Who made the key
    #[arg(long, value_enum, default_value_t = OriginArg::Client)]
    pub(super) origin: OriginArg,
    /// Show the stored answer, too: status, headers and body. It may hold a customer's data; the
    /// audit log says who looked
    #[arg(long)]
    pub(super) body: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
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

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum StateArg {
    Executing,
    Completed,
    Failed,
    Unknown,
}

/// Which records; all of what is given must hold.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct Filter {
    /// Keys that begin like this
    #[arg(long, value_name = "TEXT")]
    pub(super) prefix: Option<String>,
    /// The id by which logs name the key
    #[arg(long, value_name = "ID")]
    pub(super) log_id: Option<String>,
    /// The id of the newest request
    #[arg(long, value_name = "ID")]
    pub(super) request_id: Option<String>,
    /// The trace id of the newest request
    #[arg(long, value_name = "ID")]
    pub(super) trace_id: Option<String>,
    /// Only this state
    #[arg(long, value_enum)]
    pub(super) state: Option<StateArg>,
    /// The path of the newest request; with a `*` at its end, paths that begin like this
    #[arg(long)]
    pub(super) path: Option<String>,
    /// The rule of the newest request
    #[arg(long)]
    pub(super) rule: Option<String>,
    /// At least so long in its state (such as 15m)
    #[arg(long, value_name = "TIME")]
    pub(super) older_than: Option<Millis>,
    /// At most so long in its state
    #[arg(long, value_name = "TIME")]
    pub(super) newer_than: Option<Millis>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum SortArg {
    /// The longest in its state first
    Oldest,
    /// The shortest in its state first
    Newest,
}

impl SortArg {
    pub(super) fn name(self) -> &'static str {
        match self {
            SortArg::Oldest => "oldest",
            SortArg::Newest => "newest",
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct List {
    /// Exactly this key, over all tenants if none is given
    #[arg(long)]
    pub(super) key: Option<String>,
    #[command(flatten)]
    pub(super) tenant: Tenant,
    #[command(flatten)]
    pub(super) filter: Filter,
    /// In order of the time since when a record is in its state
    #[arg(long, value_enum)]
    pub(super) sort: Option<SortArg>,
    /// Most records
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(super) limit: u16,
    /// Where the previous page ended
    #[arg(long)]
    pub(super) after: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct Find {
    /// A key or its beginning, a log id, a request id or a trace id
    pub(super) text: String,
    #[command(flatten)]
    pub(super) tenant: Tenant,
    #[command(flatten)]
    pub(super) filter: Filter,
    /// Most records
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(super) limit: u16,
}

/// Which records are changed, and how sure one has to be.
#[derive(Debug, Args)]
pub(super) struct Change {
    /// The idempotency key of one record, without quotes; without it, all that match are changed
    pub(super) key: Option<String>,
    #[command(flatten)]
    pub(super) tenant: Tenant,
    /// Who made the key, of one record
    #[arg(long, value_enum, default_value_t = OriginArg::Client, requires = "key")]
    pub(super) origin: OriginArg,
    /// The version that `show` showed, of one record; if it has another one, nothing happens
    #[arg(long, requires = "key")]
    pub(super) version: Option<u64>,
    #[command(flatten)]
    pub(super) filter: Filter,
    /// Every record of the store
    #[arg(long, conflicts_with = "key")]
    pub(super) all: bool,
    /// Refuse if more records match
    #[arg(long, default_value_t = 1000, value_name = "N")]
    pub(super) most: usize,
    /// Also while an execution holds a live lease; it may still take effect
    #[arg(long)]
    pub(super) force: bool,
    /// Only say what would happen
    #[arg(long, conflicts_with = "yes")]
    pub(super) dry_run: bool,
    /// Do it without a question. Without this, and without a terminal to ask on, nothing is changed
    #[arg(long)]
    pub(super) yes: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum ToArg {
    Completed,
    Failed,
}

#[derive(Debug, Args)]
pub(super) struct Resolve {
    #[command(flatten)]
    pub(super) change: Change,
    /// What the records become
    #[arg(long, value_enum)]
    pub(super) to: ToArg,
    /// Status to replay, with --to completed; 200 for a tombstone without one
    #[arg(long)]
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
    pub(super) change: Change,
}
