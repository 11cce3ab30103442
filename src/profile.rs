//! Which host the filter runs in, and what that changes.
//!
//! One `.wasm` runs in both hosts, and they differ in what a callback may do. Everything that
//! depends on the host asks [`Profile`]; the reasons are in `docs/adr/0009-kong-profile.md`.
//!
//! | | Envoy | Kong (nginx + ngx_wasm_module) |
//! |---|---|---|
//! | hostcalls act on | any context, by `set_effective_context` | the context of the running callback, whatever was set |
//! | callouts | from the root, at any time | from the stream's own request callbacks, or the tick |
//! | a request waits for its body | held, the body comes in pieces | passes on; the body comes once, whole, if there is one |
//! | a response can be held | yes | no |
//! | settlements | before the client has the end | behind its back, from the next tick |
//! | who made an answer | `response.code_details` | nginx's own variables about the upstream |
//! | our own answers | are sent as they are | lose repeated headers, and cannot have a body; mended on their way |

use crate::details;
use crate::host::Host;
use idempotency_core::config::Gateway;

/// The host, as far as the filter must know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// Envoy.
    Envoy,
    /// Kong: nginx with ngx_wasm_module.
    Kong,
}

/// A context that no host has given out: contexts are numbered upwards, or are hashes of names.
const NOBODY: u32 = u32::MAX;

impl Profile {
    /// Finds out, when the root is configured. Envoy knows its contexts and refuses a number that
    /// it has not given out; ngx_wasm_module accepts every number and does nothing (measured, and
    /// read in both sources). It is also the very ability that the Envoy profile depends on: a
    /// host that does not have it must not be driven that way.
    pub fn detect<H: Host>(host: &H) -> Profile {
        match host.set_context(NOBODY) {
            Ok(()) => Profile::Kong,
            Err(_) => Profile::Envoy,
        }
    }

    /// The gateway, as the configuration names it.
    pub fn gateway(self) -> Gateway {
        match self {
            Profile::Envoy => Gateway::Envoy,
            Profile::Kong => Gateway::Kong,
        }
    }

    /// Its name, as the configuration spells it.
    pub fn name(self) -> &'static str {
        self.gateway().name()
    }

    /// Period of the root's tick in milliseconds: how late renewals and retries may be, and on
    /// Kong every settlement. There it is set once, and a timer of nginx costs 2 µs.
    pub fn tick_ms(self) -> u32 {
        match self {
            Profile::Envoy => 50,
            Profile::Kong => 10,
        }
    }

    /// Details of our own answers. ngx_wasm_module writes them into the status line, as the reason
    /// phrase. A 204 needs one: nginx takes the content type from one that has none (measured).
    pub fn reply_details(self, status: u16) -> &'static str {
        match (self, status) {
            (Profile::Envoy, _) => details::OURS,
            (Profile::Kong, 204) => "No Content",
            (Profile::Kong, _) => "",
        }
    }

    /// The property that has what is told of a stream. Envoy keeps it as `wasm.idempotency` in the filter state;
    /// in Kong it is nginx' variable `$idempotency`, where a configuration has that.
    pub fn property(self) -> &'static [&'static str] {
        match self {
            Profile::Envoy => &["idempotency"],
            Profile::Kong => &["ngx", "idempotency"],
        }
    }

    /// How many fields of a header map a filter sees; from there on some may be missing.
    pub fn max_fields(self) -> usize {
        match self {
            Profile::Envoy => usize::MAX,
            Profile::Kong => 100,
        }
    }
}
