//! Which service is behind a gateway's address, for clients that know only the address.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Mutex, OnceLock, PoisonError};

/// A service and the token of its operator.
type Behind = (SocketAddr, String);

fn all() -> &'static Mutex<HashMap<SocketAddr, Behind>> {
    static ALL: OnceLock<Mutex<HashMap<SocketAddr, Behind>>> = OnceLock::new();
    ALL.get_or_init(Mutex::default)
}

pub(crate) fn register(gateway: SocketAddr, service: SocketAddr, operator: &str) {
    let mut all = all().lock().unwrap_or_else(PoisonError::into_inner);
    all.insert(gateway, (service, operator.to_owned()));
}

/// The service behind the gateway of a [`crate::Stack`]: its address and its operator's token.
pub fn service_behind(gateway: SocketAddr) -> Option<(SocketAddr, String)> {
    let all = all().lock().unwrap_or_else(PoisonError::into_inner);
    all.get(&gateway).cloned()
}
