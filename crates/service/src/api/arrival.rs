//! What is known of a request before its path is looked at.

use crate::auth::{Presented, Way};
use crate::peer::Address;

/// How a request came, and what it showed.
#[derive(Clone, Debug)]
pub(crate) struct Arrival {
    /// Through which kind of listener.
    pub way: Way,
    /// Through a listener of the operators' page, which serves nothing else.
    pub page: bool,
    /// From where.
    pub from: Address,
    /// Over TLS.
    pub tls: bool,
    /// Its certificate and its token, if any.
    pub presented: Presented,
}
