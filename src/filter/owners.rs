//! Random owners, many for one hostcall.

use crate::host::Host;
use idempotency_protocol::Owner;

/// Owners that nobody has had yet.
#[derive(Default)]
pub(super) struct Owners(Vec<[u8; 16]>);

impl Owners {
    /// The next one; `None` if the host gives no randomness.
    pub fn next<H: Host>(&mut self, host: &H) -> Option<Owner> {
        if self.0.is_empty() {
            let mut fresh = [[0; 16]; 32];
            host.random(fresh.as_flattened_mut()).ok()?;
            self.0.extend(fresh);
        }
        self.0.pop().map(Owner)
    }
}
