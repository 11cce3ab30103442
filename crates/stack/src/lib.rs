//! The real parts of the gateway as child processes: a host with the filter (Envoy, or Kong's), the
//! idempotency service on its embedded store, the demo upstream, and the servers of other stores.
//!
//! `make run` (the binary `gateway-demo`), the end-to-end tests, the benches and the checks all
//! stand on this. Everything listens on 127.0.0.1, on ports of its own; every child is stopped and
//! reaped when its handle is dropped, also when the test panics, and dies with the process that
//! started it if that one is killed. A panicking test gets the tail of every child's log.
//!
//! It knows how each program is found, configured, started and stopped. It must never know what a test expects of them.
//!
//! ```no_run
//! use idempotency_stack::{http, Stack};
//!
//! let stack = Stack::builder().gateway(|gateway| gateway.workers = 2).start();
//! let answer = http::Request::post("/charges")
//!     .header("Idempotency-Key", "k-1")
//!     .body("{}")
//!     .send(stack.address())
//!     .expect("an answer");
//! assert_eq!(answer.status, 201);
//! assert_eq!(stack.upstream.executions().of("k-1"), 1);
//! ```
//!
//! # Where the programs come from
//!
//! | program | environment | else |
//! |---|---|---|
//! | Envoy | `ENVOY_BIN` | `<target>/tools/envoy-<version>/envoy`, then `PATH` |
//! | Kong's host, ours | `KONG_HOST_BIN` | `kong-host` beside the running test or program |
//! | the library's layer as a gateway | `LAYER_HOST_BIN` | `layer-host` beside the running test or program |
//! | Kong | `KONG`, the directory of its `bin/kong` | |
//! | nginx with ngx_wasm_module | `KONG_NGINX`; its Lua libraries: `KONG_LUALIB` | |
//! | service | `IDEMPOTENCYD_BIN` | `idempotencyd` beside the running test or program |
//! | upstream | `DEMO_UPSTREAM_BIN` | `demo-upstream` beside the running test or program |
//! | Redis | `REDIS_SERVER_BIN` | `redis-server` in `PATH`; `redis-cli` beside it |
//! | PostgreSQL | `POSTGRES_BIN`, the directory of its programs | the newest below `/usr/lib/postgresql`, then `PATH` |
//! | PgBouncer | below `/usr/sbin`, `/usr/bin` | |
//! | libfaketime | `FAKETIME_LIB` | below `/usr/lib` |
//! | filter | `IDEMPOTENCY_WASM` | `<target>/idempotency.wasm` |
//!
//! # Panics
//!
//! For the sake of short tests, [`StackBuilder::start`] and the methods that ask a running part
//! something panic with a message that says what to do. Everything named `start` on a single part
//! returns an [`Error`] instead.

pub mod envoy;
mod error;
pub mod gateway;
pub mod http;
pub mod imports;
pub mod kong;
pub mod kong_host;
mod layer_host;
pub mod nginx;
pub mod pki;
pub mod ports;
mod postgres;
mod process;
mod redis;
mod relay;
mod service;
mod spawn;
mod stack;
pub mod tools;
mod tree;
mod upstream;
mod wait;

pub use envoy::{Envoy, EnvoyConfig};
pub use error::Error;
pub use gateway::{
    service_behind, Cluster, Gateway, GatewayConfig, Host, Route, ServiceAddress, TlsAddress,
};
pub use kong::{Body, Kong, KongSettings};
pub use kong_host::KongHost;
pub use layer_host::LayerHost;
pub use nginx::Nginx;
pub use pki::Pki;
pub use postgres::{PgBouncer, Postgres, PostgresOptions};
pub use process::Process;
pub use redis::{Redis, RedisCluster, RedisRedlock, RedisSentinel};
pub use relay::Relay;
pub use service::{Backend, Durability, Service, ServiceOptions, Tokens, ENCRYPTION_KEYS};
pub use spawn::terminate_with_parent;
pub use stack::{calls_are_shared, charges_rule, filter_config, Stack, StackBuilder};
pub use upstream::{Execution, Executions, Upstream, UpstreamOptions};
pub use wait::until;
