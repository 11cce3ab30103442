//! The settings as they are written down: flags, environment, file.

use super::units::{Millis, Mode, Size};
use crate::tls::{ClientAuth, MinVersion};
use clap::{Args, ValueEnum};
use serde::Deserialize;
use std::path::PathBuf;

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// When an acknowledged operation is on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DurabilityMode {
    /// Before it is acknowledged.
    Durable,
    /// Shortly after.
    Relaxed,
}

/// Files that hold tokens, by role.
#[derive(Clone, Debug, Default)]
pub struct TokenFiles {
    /// Of gateways.
    pub gateway: Vec<PathBuf>,
    /// Of upstreams.
    pub upstream: Vec<PathBuf>,
    /// Of operators.
    pub operator: Vec<PathBuf>,
}

/// Every setting of `idempotencyd serve`. A flag wins over its environment variable, which wins
/// over the file. The names in a file are the flags' names with `_` for `-`.
#[derive(Clone, Debug, Default, Args, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Address to listen on, ADDR:PORT or unix:/path; several allowed. Port 0 takes a free one. With
    /// --tls-cert, TCP ports speak TLS; plain:ADDR:PORT, on loopback alone, does not
    /// [default: 127.0.0.1:7480]
    #[arg(
        long,
        env = "IDEMPOTENCYD_LISTEN",
        value_name = "ADDR",
        value_delimiter = ','
    )]
    pub listen: Vec<String>,

    /// Address of the operators' page, ADDR:PORT or unix:/path; several allowed. It serves nothing
    /// else, and needs an operator token to sign in [default: no page]
    #[arg(
        long,
        env = "IDEMPOTENCYD_UI_LISTEN",
        value_name = "ADDR",
        value_delimiter = ','
    )]
    pub ui_listen: Vec<String>,

    /// The operators' page shows records, but changes none
    #[arg(
        long,
        env = "IDEMPOTENCYD_UI_READ_ONLY",
        num_args = 0..=1,
        default_missing_value = "true",
        value_name = "BOOL"
    )]
    pub ui_read_only: Option<bool>,

    /// Certificate of the service and those that lead to its authority, PEM: TCP ports speak TLS.
    /// This and the other TLS files are read again when they change, and on SIGHUP
    /// [default: no TLS]
    #[arg(long, env = "IDEMPOTENCYD_TLS_CERT", value_name = "PATH")]
    pub tls_cert: Option<PathBuf>,

    /// Private key of the certificate, PEM
    #[arg(long, env = "IDEMPOTENCYD_TLS_KEY", value_name = "PATH")]
    pub tls_key: Option<PathBuf>,

    /// Certificates of the authorities that vouch for clients, PEM: clients are asked for a
    /// certificate [default: they are not asked]
    #[arg(long, env = "IDEMPOTENCYD_TLS_CLIENT_CA", value_name = "PATH")]
    pub tls_client_ca: Option<PathBuf>,

    /// Whether a client must show a certificate, but for /healthz, /readyz and /metrics
    /// [default: required]
    #[arg(long, env = "IDEMPOTENCYD_TLS_CLIENT_AUTH")]
    pub tls_client_auth: Option<ClientAuth>,

    /// File with the roles of client certificates, a line for each: `gateway dns:NAME` or
    /// `operator uri:URI`, by the certificate's subject alternative names
    /// [default: certificates have no role, tokens have]
    #[arg(long, env = "IDEMPOTENCYD_TLS_ROLES", value_name = "PATH")]
    pub tls_roles: Option<PathBuf>,

    /// Oldest version of TLS [default: 1.2]
    #[arg(long, env = "IDEMPOTENCYD_TLS_MIN_VERSION")]
    pub tls_min_version: Option<MinVersion>,

    /// Permissions of Unix sockets, octal [default: 660]
    #[arg(long, env = "IDEMPOTENCYD_SOCKET_MODE", value_name = "MODE")]
    pub socket_mode: Option<Mode>,

    /// Write the bound addresses to this file (JSON) once all listeners are open
    #[arg(long, env = "IDEMPOTENCYD_READY_FILE", value_name = "PATH")]
    pub ready_file: Option<PathBuf>,

    /// Where records live: `embedded`, `embedded:/path`, `redis://…`, `postgres://…` (a URL;
    /// PGPASSWORD and the like count, too), `memory:` (tests only) [default: embedded]
    #[arg(
        long,
        env = "IDEMPOTENCYD_STORE",
        value_name = "STORE",
        hide_env_values = true
    )]
    pub store: Option<String>,

    /// Directory of the embedded store [default: idempotencyd-data]
    #[arg(long, env = "IDEMPOTENCYD_DATA_DIR", value_name = "PATH")]
    pub data_dir: Option<PathBuf>,

    /// When an acknowledged operation is on disk: before the answer, or shortly after
    /// [default: durable]
    #[arg(long, env = "IDEMPOTENCYD_DURABILITY")]
    pub durability: Option<DurabilityMode>,

    /// Time between two syncs with --durability relaxed [default: 100ms]
    #[arg(long, env = "IDEMPOTENCYD_SYNC_INTERVAL", value_name = "TIME")]
    pub sync_interval: Option<Millis>,

    /// The store refuses new keys above this size; what was granted can still be completed
    /// [default: no limit]
    #[arg(long, env = "IDEMPOTENCYD_STORE_MAX_BYTES", value_name = "SIZE")]
    pub store_max_bytes: Option<Size>,

    /// The store refuses new keys when its file system has less room than this [default: 256MiB]
    #[arg(long, env = "IDEMPOTENCYD_STORE_MIN_FREE_BYTES", value_name = "SIZE")]
    pub store_min_free_bytes: Option<Size>,

    /// Memory for the embedded store's cache [default: 128MiB]
    #[arg(long, env = "IDEMPOTENCYD_STORE_CACHE_BYTES", value_name = "SIZE")]
    pub store_cache_bytes: Option<Size>,

    /// Running executions of one tenant; for further new keys its clients get 429. For all services
    /// of a store alike [default: no limit]
    #[arg(long, env = "IDEMPOTENCYD_MAX_EXECUTIONS_PER_TENANT", value_name = "N")]
    pub max_executions_per_tenant: Option<u64>,

    /// Records of one tenant; likewise [default: no limit]
    #[arg(long, env = "IDEMPOTENCYD_MAX_RECORDS_PER_TENANT", value_name = "N")]
    pub max_records_per_tenant: Option<u64>,

    /// Bytes of one tenant's keys and answers; likewise [default: no limit]
    #[arg(long, env = "IDEMPOTENCYD_MAX_BYTES_PER_TENANT", value_name = "SIZE")]
    pub max_bytes_per_tenant: Option<Size>,

    /// Encrypt the records with the keys of this file, a name and 32 bytes in base64 per line: `index`, then the key
    /// that seals, then older ones; looked at every second, and on SIGHUP [default: records in clear]
    #[arg(long, env = "IDEMPOTENCYD_ENCRYPTION_KEYS", value_name = "PATH")]
    pub encryption_keys: Option<PathBuf>,

    /// Encrypt the records with the keys that this command writes, for a KMS; run by `sh -c` at start, on SIGHUP and
    /// every five minutes
    #[arg(
        long,
        env = "IDEMPOTENCYD_ENCRYPTION_KEY_COMMAND",
        value_name = "COMMAND",
        hide_env_values = true
    )]
    pub encryption_key_command: Option<String>,

    /// Guard a Redis store: every lock must also be held on a majority of these servers, which are
    /// independent of it and of each other; URLs, three or more [default: no guard]
    #[arg(
        long = "redlock-node",
        env = "IDEMPOTENCYD_REDLOCK_NODES",
        value_name = "URL",
        value_delimiter = ',',
        hide_env_values = true
    )]
    pub redlock_nodes: Vec<String>,

    /// Longest wait for a majority of the guard's nodes [default: 200ms]
    #[arg(long, env = "IDEMPOTENCYD_REDLOCK_TIMEOUT", value_name = "TIME")]
    pub redlock_timeout: Option<Millis>,

    /// How much faster than ours the clock of a guard's node may run, in percent [default: 1]
    #[arg(long, env = "IDEMPOTENCYD_REDLOCK_DRIFT_PERCENT", value_name = "N")]
    pub redlock_drift_percent: Option<u32>,

    /// Bearer token of gateways, [NAME:]TOKEN; several allowed (rotation)
    #[arg(
        long = "gateway-token",
        env = "IDEMPOTENCYD_GATEWAY_TOKENS",
        value_name = "TOKEN",
        value_delimiter = ',',
        hide_env_values = true
    )]
    pub gateway_tokens: Vec<String>,

    /// File with tokens of gateways, one [NAME:]TOKEN per line; read again on SIGHUP
    #[arg(
        long = "gateway-token-file",
        env = "IDEMPOTENCYD_GATEWAY_TOKEN_FILES",
        value_name = "PATH",
        value_delimiter = ','
    )]
    pub gateway_token_files: Vec<PathBuf>,

    /// Bearer token of upstreams that settle their executions, [NAME:]TOKEN; several allowed
    #[arg(
        long = "upstream-token",
        env = "IDEMPOTENCYD_UPSTREAM_TOKENS",
        value_name = "TOKEN",
        value_delimiter = ',',
        hide_env_values = true
    )]
    pub upstream_tokens: Vec<String>,

    /// File with tokens of upstreams
    #[arg(
        long = "upstream-token-file",
        env = "IDEMPOTENCYD_UPSTREAM_TOKEN_FILES",
        value_name = "PATH",
        value_delimiter = ','
    )]
    pub upstream_token_files: Vec<PathBuf>,

    /// Bearer token of operators, [NAME:]TOKEN; several allowed. The name is audited
    #[arg(
        long = "operator-token",
        env = "IDEMPOTENCYD_OPERATOR_TOKENS",
        value_name = "TOKEN",
        value_delimiter = ',',
        hide_env_values = true
    )]
    pub operator_tokens: Vec<String>,

    /// File with tokens of operators
    #[arg(
        long = "operator-token-file",
        env = "IDEMPOTENCYD_OPERATOR_TOKEN_FILES",
        value_name = "PATH",
        value_delimiter = ','
    )]
    pub operator_token_files: Vec<PathBuf>,

    /// Accept callers without tokens for roles that have none configured: gateways and upstreams
    /// everywhere, operators on loopback and Unix sockets. They must still name an expected host
    #[arg(
        long,
        env = "IDEMPOTENCYD_INSECURE_NO_AUTH",
        num_args = 0..=1,
        default_missing_value = "true",
        value_name = "BOOL"
    )]
    pub insecure_no_auth: Option<bool>,

    /// Host name by which callers without a valid token may call the service, without port,
    /// beside localhost, loopback addresses, `idempotencyd` and the addresses of --listen;
    /// several allowed
    #[arg(
        long = "allowed-host",
        env = "IDEMPOTENCYD_ALLOWED_HOSTS",
        value_name = "NAME",
        value_delimiter = ','
    )]
    pub allowed_hosts: Vec<String>,

    /// Largest request body [default: 16MiB]
    #[arg(long, env = "IDEMPOTENCYD_MAX_BODY_BYTES", value_name = "SIZE")]
    pub max_body_bytes: Option<Size>,

    /// Room for all requests with a token that are being read or worked on, and for their answers
    /// until they are taken [default: 512MiB]
    #[arg(long, env = "IDEMPOTENCYD_MAX_BUFFERED_BYTES", value_name = "SIZE")]
    pub max_buffered_bytes: Option<Size>,

    /// Operations in one call, at least 64 [default: 64]
    #[arg(long, env = "IDEMPOTENCYD_MAX_BATCH", value_name = "N")]
    pub max_batch: Option<usize>,

    /// Calls inside the store at the same time; further ones get 503 at once. A quarter more is
    /// kept for calls that settle executions [default: 4096]
    #[arg(long, env = "IDEMPOTENCYD_MAX_CONCURRENT_CALLS", value_name = "N")]
    pub max_concurrent_calls: Option<usize>,

    /// Waits at the same time; further ones end at once [default: 4096]
    #[arg(long, env = "IDEMPOTENCYD_MAX_WAITERS", value_name = "N")]
    pub max_waiters: Option<usize>,

    /// Waits at the same time for one tenant [default: 1024]
    #[arg(long, env = "IDEMPOTENCYD_MAX_WAITERS_PER_TENANT", value_name = "N")]
    pub max_waiters_per_tenant: Option<usize>,

    /// Waits at the same time for one key [default: 128]
    #[arg(long, env = "IDEMPOTENCYD_MAX_WAITERS_PER_KEY", value_name = "N")]
    pub max_waiters_per_key: Option<usize>,

    /// Longest wait; longer ones are cut [default: 60s]
    #[arg(long, env = "IDEMPOTENCYD_MAX_WAIT", value_name = "TIME")]
    pub max_wait: Option<Millis>,

    /// Open connections of each listener; for further ones, connections that have shown no valid
    /// token are closed, or they wait in the listener's queue. Must be larger than max_waiters; cut
    /// to what the limit of open files allows [default: 10000]
    #[arg(long, env = "IDEMPOTENCYD_MAX_CONNECTIONS", value_name = "N")]
    pub max_connections: Option<usize>,

    /// Room for all that connections without a valid token hold, per listener; a quarter of it for
    /// one address. Each takes 64KiB, and its requests and answers on top [default: 256MiB]
    #[arg(long, env = "IDEMPOTENCYD_MAX_STRANGER_BYTES", value_name = "SIZE")]
    pub max_stranger_bytes: Option<Size>,

    /// Time for the head of a request, from its first byte on; without a valid token also the
    /// longest time without a request [default: 10s]
    #[arg(long, env = "IDEMPOTENCYD_HEADER_TIMEOUT", value_name = "TIME")]
    pub header_timeout: Option<Millis>,

    /// Longest time without a request on a connection that has shown a valid token. Keep it longer
    /// than the gateways' own limit (Envoy's default: 1h) [default: 65m]
    #[arg(long, env = "IDEMPOTENCYD_IDLE_TIMEOUT", value_name = "TIME")]
    pub idle_timeout: Option<Millis>,

    /// Time for an answer to be taken [default: 30s]
    #[arg(long, env = "IDEMPOTENCYD_WRITE_TIMEOUT", value_name = "TIME")]
    pub write_timeout: Option<Millis>,

    /// Time from the head of a request to its answer [default: 3m, or body_timeout + max_wait + 1m
    /// if that is longer]
    #[arg(long, env = "IDEMPOTENCYD_REQUEST_TIMEOUT", value_name = "TIME")]
    pub request_timeout: Option<Millis>,

    /// Time for the body of a request [default: 30s]
    #[arg(long, env = "IDEMPOTENCYD_BODY_TIMEOUT", value_name = "TIME")]
    pub body_timeout: Option<Millis>,

    /// Time between two sweeps for expired records [default: 1s]
    #[arg(long, env = "IDEMPOTENCYD_SWEEP_INTERVAL", value_name = "TIME")]
    pub sweep_interval: Option<Millis>,

    /// Records per sweep batch [default: 512]
    #[arg(long, env = "IDEMPOTENCYD_SWEEP_BATCH", value_name = "N")]
    pub sweep_batch: Option<usize>,

    /// Shortest time between two counts of the records by state, which metrics and the operators'
    /// page show; all records are read for it, in at most 2% of the time. 0ms: never [default: 1m]
    #[arg(long, env = "IDEMPOTENCYD_CENSUS_INTERVAL", value_name = "TIME")]
    pub census_interval: Option<Millis>,

    /// Longest graceful shutdown [default: 10s]
    #[arg(long, env = "IDEMPOTENCYD_SHUTDOWN_TIMEOUT", value_name = "TIME")]
    pub shutdown_timeout: Option<Millis>,

    /// Append every read and change by an operator to this file, as JSON lines
    #[arg(long, env = "IDEMPOTENCYD_AUDIT_LOG", value_name = "PATH")]
    pub audit_log: Option<PathBuf>,

    /// How log lines look [default: text]
    #[arg(long, env = "IDEMPOTENCYD_LOG_FORMAT")]
    pub log_format: Option<LogFormat>,

    /// What is logged: error, warn, info, debug, trace, or per-target directives
    /// [default: info]
    #[arg(long, env = "IDEMPOTENCYD_LOG", value_name = "LEVEL")]
    pub log: Option<String>,

    /// Send traces to this collector, by OTLP over HTTP (protobuf): http://HOST:4318, to which
    /// /v1/traces is added, or a URL with a path. OTEL_EXPORTER_OTLP_TRACES_ENDPOINT and
    /// OTEL_EXPORTER_OTLP_ENDPOINT are heard where this is not set [default: no traces]
    #[arg(long, env = "IDEMPOTENCYD_OTLP_ENDPOINT", value_name = "URL")]
    pub otlp_endpoint: Option<String>,

    /// Worker threads [default: one per core]
    #[arg(long, env = "IDEMPOTENCYD_THREADS", value_name = "N")]
    pub threads: Option<usize>,
}

impl Settings {
    /// `self`, completed from `lower`. A list in `self` replaces the list in `lower`; the lists
    /// of one role's tokens and token files replace each other together, so that a flag can never
    /// leave a file's older token valid.
    pub fn over(self, lower: Settings) -> Settings {
        fn list<T>(upper: Vec<T>, lower: Vec<T>) -> Vec<T> {
            if upper.is_empty() {
                lower
            } else {
                upper
            }
        }
        fn tokens<A, B>(upper: (Vec<A>, Vec<B>), lower: (Vec<A>, Vec<B>)) -> (Vec<A>, Vec<B>) {
            if upper.0.is_empty() && upper.1.is_empty() {
                lower
            } else {
                upper
            }
        }
        let (gateway_tokens, gateway_token_files) = tokens(
            (self.gateway_tokens, self.gateway_token_files),
            (lower.gateway_tokens, lower.gateway_token_files),
        );
        let (upstream_tokens, upstream_token_files) = tokens(
            (self.upstream_tokens, self.upstream_token_files),
            (lower.upstream_tokens, lower.upstream_token_files),
        );
        let (operator_tokens, operator_token_files) = tokens(
            (self.operator_tokens, self.operator_token_files),
            (lower.operator_tokens, lower.operator_token_files),
        );
        // Keys come from one of both: a flag replaces the other kind in a file, too.
        let has_keys = self.encryption_keys.is_some() || self.encryption_key_command.is_some();
        let (encryption_keys, encryption_key_command) = match has_keys {
            true => (self.encryption_keys, self.encryption_key_command),
            false => (lower.encryption_keys, lower.encryption_key_command),
        };
        Settings {
            listen: list(self.listen, lower.listen),
            ui_listen: list(self.ui_listen, lower.ui_listen),
            ui_read_only: self.ui_read_only.or(lower.ui_read_only),
            tls_cert: self.tls_cert.or(lower.tls_cert),
            tls_key: self.tls_key.or(lower.tls_key),
            tls_client_ca: self.tls_client_ca.or(lower.tls_client_ca),
            tls_client_auth: self.tls_client_auth.or(lower.tls_client_auth),
            tls_roles: self.tls_roles.or(lower.tls_roles),
            tls_min_version: self.tls_min_version.or(lower.tls_min_version),
            socket_mode: self.socket_mode.or(lower.socket_mode),
            ready_file: self.ready_file.or(lower.ready_file),
            store: self.store.or(lower.store),
            data_dir: self.data_dir.or(lower.data_dir),
            durability: self.durability.or(lower.durability),
            sync_interval: self.sync_interval.or(lower.sync_interval),
            store_cache_bytes: self.store_cache_bytes.or(lower.store_cache_bytes),
            store_max_bytes: self.store_max_bytes.or(lower.store_max_bytes),
            store_min_free_bytes: self.store_min_free_bytes.or(lower.store_min_free_bytes),
            max_executions_per_tenant: self
                .max_executions_per_tenant
                .or(lower.max_executions_per_tenant),
            max_records_per_tenant: self.max_records_per_tenant.or(lower.max_records_per_tenant),
            max_bytes_per_tenant: self.max_bytes_per_tenant.or(lower.max_bytes_per_tenant),
            // One of both: a flag replaces the other kind in a file, too.
            encryption_keys,
            encryption_key_command,
            redlock_nodes: list(self.redlock_nodes, lower.redlock_nodes),
            redlock_timeout: self.redlock_timeout.or(lower.redlock_timeout),
            redlock_drift_percent: self.redlock_drift_percent.or(lower.redlock_drift_percent),
            gateway_tokens,
            gateway_token_files,
            upstream_tokens,
            upstream_token_files,
            operator_tokens,
            operator_token_files,
            insecure_no_auth: self.insecure_no_auth.or(lower.insecure_no_auth),
            allowed_hosts: list(self.allowed_hosts, lower.allowed_hosts),
            max_body_bytes: self.max_body_bytes.or(lower.max_body_bytes),
            max_buffered_bytes: self.max_buffered_bytes.or(lower.max_buffered_bytes),
            max_batch: self.max_batch.or(lower.max_batch),
            max_concurrent_calls: self.max_concurrent_calls.or(lower.max_concurrent_calls),
            max_waiters: self.max_waiters.or(lower.max_waiters),
            max_waiters_per_tenant: self.max_waiters_per_tenant.or(lower.max_waiters_per_tenant),
            max_waiters_per_key: self.max_waiters_per_key.or(lower.max_waiters_per_key),
            max_wait: self.max_wait.or(lower.max_wait),
            max_connections: self.max_connections.or(lower.max_connections),
            max_stranger_bytes: self.max_stranger_bytes.or(lower.max_stranger_bytes),
            header_timeout: self.header_timeout.or(lower.header_timeout),
            idle_timeout: self.idle_timeout.or(lower.idle_timeout),
            write_timeout: self.write_timeout.or(lower.write_timeout),
            request_timeout: self.request_timeout.or(lower.request_timeout),
            body_timeout: self.body_timeout.or(lower.body_timeout),
            sweep_interval: self.sweep_interval.or(lower.sweep_interval),
            sweep_batch: self.sweep_batch.or(lower.sweep_batch),
            census_interval: self.census_interval.or(lower.census_interval),
            shutdown_timeout: self.shutdown_timeout.or(lower.shutdown_timeout),
            audit_log: self.audit_log.or(lower.audit_log),
            log_format: self.log_format.or(lower.log_format),
            log: self.log.or(lower.log),
            otlp_endpoint: self.otlp_endpoint.or(lower.otlp_endpoint),
            threads: self.threads.or(lower.threads),
        }
    }
}
