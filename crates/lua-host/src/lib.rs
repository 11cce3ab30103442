//! Plays Kong around its Lua plugin, in a real nginx with lua-nginx-module (Debian's), so that the plugin runs where no
//! Kong is. `lua/stand_in.lua` has the calls of Kong that the plugin uses; `docs/adr/0029-kong-plugin-execution.md` says
//! what of it was seen in a complete Kong.
//!
//! | | |
//! |---|---|
//! | [`Host`] | nginx with the plugin, and the service behind it |
//! | [`Upstream`] | an upstream that counts, and misbehaves on demand |
//! | [`client`] | requests and answers byte by byte |
#![forbid(unsafe_code)]

pub mod client;
mod host;
mod process;
mod service;
pub mod tools;
mod upstream;

pub use host::{Host, Options, Trust};
pub use process::{free_port, until};
pub use service::Service;
pub use upstream::{Execution, Upstream};
