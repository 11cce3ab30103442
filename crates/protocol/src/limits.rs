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
