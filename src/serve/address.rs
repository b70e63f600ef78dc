//! What counts as one address of a client.

use std::net::{IpAddr, Ipv6Addr};

/// The address, or its /64 network with IPv6: a customer usually has a whole /64. An IPv4 address that is mapped into IPv6
/// counts as what it is.
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}
