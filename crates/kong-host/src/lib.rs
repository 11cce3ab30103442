//! An in-process Kong: a small HTTP server that runs the native filter through the callbacks of
//! Kong's host (nginx 1.25.3 with ngx_wasm_module), in its order and with its quirks, in front of
//! a real upstream and with callouts to the real service.
//!
//! | module | idea |
//! |---|---|
//! | [`config`] | what can be set, as `kong.conf` and `kong.yml` would |
//! | [`vm`] | one worker's filter: callbacks in, verdicts out |
//! | [`host`] | the hostcalls, each told to the judge of the host's rules first |
//! | [`stream`] | what the host knows of one request: header maps, buffers, nginx's variables |
//! | [`callout`] | HTTP/1.1 with `Connection: close`, over TCP or a Unix socket |
//! | [`exchange`] | one request from the client to the upstream and back |
//! | [`upstream`] | the hop to the upstream |
//! | [`uri`] | nginx's decoded and normalised path |
//! | [`metrics`] | what the filter counts, for all workers together |
//! | [`report`] | a broken rule ends the process, and is written down |
//!
//! Facts and how they were measured: `docs/kong-facts.md`. A rule that the filter breaks ends the
//! process at once: on the real host it would be a trap, a crash or a request that hangs.
#![forbid(unsafe_code)]

pub mod callout;
pub mod config;
pub mod exchange;
pub mod host;
pub mod metrics;
pub mod report;
pub mod server;
pub mod stream;
pub mod upstream;
pub mod uri;
pub mod vm;
