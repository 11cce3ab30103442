//! Every limit that both ends of the wire must agree on, in one place: what a gateway's configuration and
//! `check-config` accept, the service accepts.

/// Longest key, in characters, as in the contract with clients.
pub const MAX_KEY_CHARS: usize = 255;

/// Longest tenant and longest namespace, in bytes.
pub const MAX_SCOPE_BYTES: usize = 1024;

/// Longest lease, in milliseconds: one day. A gateway that dies holds its keys for as long.
pub const MAX_LEASE_MS: u64 = 86_400_000;

/// Longest retention of a result, in milliseconds: ten years. Keeps every sum of times far from overflow.
pub const MAX_TTL_MS: u64 = 10 * 366 * 86_400_000;

/// Longest wait of one request for another execution, in milliseconds: one minute.
pub const MAX_WAIT_MS: u64 = 60_000;

/// Longest message that a service accepts unless it is told otherwise, in bytes (16 MiB).
pub const MAX_MESSAGE_BYTES: usize = 16 << 20;

/// Longest body of a response that is stored, in bytes (15 MiB): with its headers and the rest of its
/// operation it fits into [`MAX_MESSAGE_BYTES`].
pub const MAX_RESPONSE_BYTES: usize = MAX_MESSAGE_BYTES - (1 << 20);

/// Most redirects (307, 308) of one key that are remembered with the requests that got them.
pub const MAX_REDIRECTS: usize = 4;
/// Longest redirect, in bytes of its encoded form (4 KiB), that is remembered.
pub const MAX_REDIRECT_BYTES: usize = 4 << 10;

/// Longest method in a description ([`crate::About`]), in bytes.
pub const MAX_METHOD_BYTES: usize = 16;
/// Longest path in a description, in bytes.
pub const MAX_PATH_BYTES: usize = 512;
/// Longest name of a rule in a description, in bytes.
pub const MAX_RULE_BYTES: usize = 64;
/// Longest name of a gateway in a description, in bytes.
pub const MAX_GATEWAY_BYTES: usize = 64;
/// Longest request id in a description, in bytes.
pub const MAX_REQUEST_ID_BYTES: usize = 128;
/// Longest trace id in a description, in bytes.
pub const MAX_TRACE_ID_BYTES: usize = 32;
/// Longest name of a client in a description, in bytes.
pub const MAX_CLIENT_BYTES: usize = 128;

/// Longest `traceparent` that travels with an operation, in bytes: the whole of one of version 00. Of a later version,
/// which may be longer, this is the part that every reader understands (W3C Trace Context §3.2.4).
pub const MAX_TRACEPARENT_BYTES: usize = 55;
