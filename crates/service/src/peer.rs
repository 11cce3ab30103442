//! Who is at the other end of a connection, as far as the network tells.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// What is counted as one peer: an IPv4 address, or the /64 of an IPv6 address, within which one
/// machine may choose its addresses freely. All clients of Unix sockets are one peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Peer {
    /// Over a Unix socket.
    Unix,
    /// Over TCP.
    Net(IpAddr),
}

/// Where a connection comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    /// Over a Unix socket.
    Unix,
    /// Over TCP.
    Tcp(SocketAddr),
}

impl Address {
    /// The peer that is held responsible for it.
    pub(crate) fn peer(self) -> Peer {
        match self {
            Address::Unix => Peer::Unix,
            Address::Tcp(address) => Peer::Net(match address.ip().to_canonical() {
                IpAddr::V4(ip) => IpAddr::V4(ip),
                IpAddr::V6(ip) => {
                    let [a, b, c, d, ..] = ip.segments();
                    IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
                }
            }),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Unix => f.write_str("unix"),
            Address::Tcp(address) => address.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers() {
        let peer = |text: &str| Address::Tcp(text.parse().unwrap()).peer();
        assert_eq!(peer("10.0.0.1:5"), peer("10.0.0.1:6"));
        assert_eq!(peer("[::ffff:10.0.0.1]:5"), peer("10.0.0.1:6"));
        assert_ne!(peer("10.0.0.1:5"), peer("10.0.0.2:5"));
        assert_eq!(peer("[2001:db8::1]:5"), peer("[2001:db8::ffff:2]:5"));
        assert_ne!(peer("[2001:db8::1]:5"), peer("[2001:db8:0:1::1]:5"));
        assert_ne!(peer("[::1]:5"), Address::Unix.peer());
    }
}
