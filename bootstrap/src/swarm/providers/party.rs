//! Who is counted together: the members of a branch, and strangers by where they are.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use barnraiser_protocol::trust::members::Branch;
use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;

/// Providers that are counted together, since one person can easily be all of them.
///
/// A stranger's is told by where its connection comes from, never by what it says of itself: keys cost nothing, addresses
/// do. Networks that nobody has from outside are apart, so that a neighbour is never counted with the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Party {
    /// Operators that descend from one whom a founder invited.
    Branch(Branch),
    /// A public /24 of IPv4: the least that is routed by itself.
    V4([u8; 3]),
    /// A public /48 of IPv6: what one site is given.
    V6([u8; 6]),
    /// A private /24 of IPv4.
    Private4([u8; 3]),
    /// A private /48 of IPv6; all link-local ones are one.
    Private6([u8; 6]),
    /// This machine.
    Loopback,
    /// Seen at no IP address.
    Elsewhere,
}

impl Party {
    /// The party of a stranger whose connection comes from `address`.
    pub fn of_stranger(address: &Multiaddr) -> Self {
        match address.iter().next() {
            Some(Protocol::Ip4(ip)) => Self::of_ip(IpAddr::V4(ip)),
            Some(Protocol::Ip6(ip)) => Self::of_ip(IpAddr::V6(ip)),
            _ => Self::Elsewhere,
        }
    }

    fn of_ip(ip: IpAddr) -> Self {
        // An IPv4 peer of a socket that listens on both is written as IPv6.
        match ip.to_canonical() {
            ip if ip.is_loopback() => Self::Loopback,
            IpAddr::V4(ip) if ip.is_private() || ip.is_link_local() => Self::Private4(first_of_4(ip)),
            IpAddr::V4(ip) => Self::V4(first_of_4(ip)),
            IpAddr::V6(ip) if ip.is_unicast_link_local() => Self::Private6([0xfe, 0x80, 0, 0, 0, 0]),
            IpAddr::V6(ip) if ip.is_unique_local() => Self::Private6(first_of_6(ip)),
            IpAddr::V6(ip) => Self::V6(first_of_6(ip)),
        }
    }

    /// Whether nobody is known who vouches for it.
    pub const fn is_stranger(&self) -> bool {
        !matches!(self, Self::Branch(_))
    }
}

const fn first_of_4(ip: Ipv4Addr) -> [u8; 3] {
    let [a, b, c, _] = ip.octets();
    [a, b, c]
}

const fn first_of_6(ip: Ipv6Addr) -> [u8; 6] {
    let [a, b, c, d, e, f, ..] = ip.octets();
    [a, b, c, d, e, f]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn party(address: &str) -> Party {
        Party::of_stranger(&address.parse().unwrap())
    }

    #[test]
    fn strangers_are_told_by_the_network_that_they_come_from() {
        assert_eq!(party("/ip4/203.0.113.5/tcp/1"), party("/ip4/203.0.113.250/udp/9/quic-v1"));
        assert_ne!(party("/ip4/203.0.113.5/tcp/1"), party("/ip4/203.0.114.5/tcp/1"));
        assert_eq!(party("/ip6/2001:db8:1::1/tcp/1"), party("/ip6/2001:db8:1:ffff::2/tcp/1"));
        assert_ne!(party("/ip6/2001:db8:1::1/tcp/1"), party("/ip6/2001:db8:2::1/tcp/1"));
        assert_eq!(party("/ip6/::ffff:203.0.113.5/tcp/1"), party("/ip4/203.0.113.5/tcp/1"), "one machine, two spellings");
    }

    #[test]
    fn this_machine_and_private_networks_are_apart() {
        assert_eq!(party("/ip4/127.0.0.1/tcp/1"), Party::Loopback);
        assert_eq!(party("/ip6/::1/tcp/1"), Party::Loopback);
        assert_eq!(party("/ip4/192.168.7.1/tcp/1"), Party::Private4([192, 168, 7]));
        assert_eq!(party("/ip4/169.254.1.1/tcp/1"), Party::Private4([169, 254, 1]));
        assert_eq!(party("/ip6/fe80::1/tcp/1"), party("/ip6/fe80:0:0:9::2/tcp/1"));
        assert_eq!(party("/ip6/fd00:1:2::1/tcp/1"), Party::Private6([0xfd, 0, 0, 1, 0, 2]));
        assert_eq!(party("/memory/7"), Party::Elsewhere);
    }
}
