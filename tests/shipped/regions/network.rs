//! Two network namespaces, each with a link to this one and with none to the other.

use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;

use super::region::Place;

/// Whether this process may make namespaces. CI must; elsewhere the test is left out, and says so.
pub fn can_be_made() -> bool {
    let name = format!("idem-{}-try", std::process::id());
    let made = Command::new("ip").args(["netns", "add", &name]).output();
    let made = made.is_ok_and(|output| output.status.success());
    if made {
        ip(&["netns", "del", &name]);
    } else {
        assert!(
            std::env::var_os("CI").is_none(),
            "CI must be root, with iproute2"
        );
        eprintln!("skipped: no root, or no iproute2, for network namespaces");
    }
    made
}

/// Runs `ip`.
fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "ip {}: {output:?}",
        arguments.join(" ")
    );
}

/// The namespaces; removed, with their links, when dropped.
#[derive(Debug)]
pub struct Network {
    id: u32,
}

impl Network {
    pub fn make() -> Network {
        let network = Network {
            id: std::process::id(),
        };
        for place in Place::BOTH {
            let (space, outer) = (network.space(place), network.link(place));
            ip(&["netns", "add", &space]);
            ip(&[
                "link", "add", &outer, "type", "veth", "peer", "name", "eth0", "netns", &space,
            ]);
            let [shore, inside] = [network.shore(place), network.inside(place)];
            ip(&["address", "add", &format!("{shore}/30"), "dev", &outer]);
            ip(&["link", "set", &outer, "up"]);
            let inner = ["-n", &space];
            let inside = format!("{inside}/30");
            for rest in [
                &["address", "add", &inside, "dev", "eth0"][..],
                &["link", "set", "eth0", "up"],
                &["link", "set", "lo", "up"],
            ] {
                ip(&[&inner[..], rest].concat());
            }
        }
        network
    }

    /// The namespace of a region.
    pub fn space(&self, place: Place) -> String {
        format!("idem-{}-{}", self.id, place.number())
    }

    /// This end of its link.
    fn link(&self, place: Place) -> String {
        format!("id{}-{}", self.id, place.number())
    }

    fn address(&self, place: Place, last: u8) -> IpAddr {
        // Of RFC 2544's range for tests of networks; the process decides which, so that two do not meet.
        let [.., high, low] = self.id.to_be_bytes();
        let fourth = (low & 0xf0) | (place.number() << 2) | last;
        IpAddr::V4(Ipv4Addr::new(198, 18 + (low & 1), high, fourth))
    }

    /// This end's address, where the other region's ways begin.
    pub fn shore(&self, place: Place) -> IpAddr {
        self.address(place, 1)
    }

    /// The region's own address.
    pub fn inside(&self, place: Place) -> IpAddr {
        self.address(place, 2)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for place in Place::BOTH {
            let space = self.space(place);
            // The link goes with it.
            let _ = Command::new("ip").args(["netns", "del", &space]).output();
        }
    }
}
