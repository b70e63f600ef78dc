//! Which hosts may be called.

use std::{io, net::IpAddr, str::FromStr, sync::Arc};

use ipnet::IpNet;
use reqwest::{
    Url,
    dns::{Addrs, Name, Resolve, Resolving},
};

use super::Error;
use crate::protocol::is_hostname;

/// The hosts that authorities may name.
///
/// Without a list, these are all hosts but the operator's own machine and its link: loopback, link-local, unspecified and
/// multicast addresses are refused, also as the addresses of a name. With a list, only hosts on it may be called; an address
/// that is refused otherwise must be on it itself, or belong to a name that is on it in full. Behind a proxy, names are the
/// proxy's to resolve, and only the name is checked.
///
/// Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Hosts {
    listed: Option<Arc<[HostPattern]>>,
    insecure: bool,
}

/// An entry of a list of hosts: `netbird.example.com`, `*.example.com`, `10.1.2.3`, or `10.0.0.0/8`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HostPattern(Pattern);

#[derive(Clone, Debug, Eq, PartialEq)]
enum Pattern {
    Name(String),
    /// All names that end with this, which begins with a dot.
    Below(String),
    Network(IpNet),
}

/// A text that is no host.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("a host is a name such as netbird.example.com or *.example.com, an address, or a network such as 10.0.0.0/8")]
pub struct InvalidHostPattern;

impl FromStr for HostPattern {
    type Err = InvalidHostPattern;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self(Pattern::Network(address.to_canonical().into())));
        }
        if let Ok(network) = text.parse::<IpNet>() {
            // 10.1.2.3/8 may be meant as one address or as a network.
            let is_network = network.trunc() == network;
            return if is_network { Ok(Self(Pattern::Network(network))) } else { Err(InvalidHostPattern) };
        }
        let text = text.to_ascii_lowercase();
        let (name, below) = text.strip_prefix("*.").map_or((text.as_str(), false), |name| (name, true));
        // A URL with such a host is one with an address, as in 127.1.
        let is_number = name.rsplit('.').next().is_some_and(|label| label.bytes().all(|byte| byte.is_ascii_digit()));
        let hyphens = name.split('.').any(|label| label.starts_with('-') || label.ends_with('-'));
        if !is_hostname(name) || name.ends_with('.') || is_number || hyphens {
            return Err(InvalidHostPattern);
        }
        Ok(Self(if below { Pattern::Below(format!(".{name}")) } else { Pattern::Name(name.to_owned()) }))
    }
}

impl Hosts {
    /// The hosts of a list, or, if it is empty, all that are not refused. `insecure` allows URLs with `http://`.
    pub fn new(listed: Vec<HostPattern>, insecure: bool) -> Self {
        Self { listed: (!listed.is_empty()).then(|| listed.into()), insecure }
    }

    /// Checks what can be checked before a name is resolved.
    pub(super) fn check(&self, url: &Url) -> Result<(), Error> {
        if url.scheme() != "https" && !self.insecure {
            return Err(Error::Insecure);
        }
        let host = url.host_str().unwrap_or_default();
        match address(host) {
            Some(address) if self.has_address(address) => Ok(()),
            Some(_) if self.listed.is_some() => Err(NOT_LISTED),
            Some(address) if is_near(address) => Err(NEAR),
            Some(_) => Ok(()),
            None if self.listed.is_some() => {
                if self.has_name(host) {
                    Ok(())
                } else {
                    Err(NOT_LISTED)
                }
            }
            None if is_local_name(host) => Err(NEAR),
            None => Ok(()),
        }
    }

    /// Whether a name that passed the check may be called at this address.
    fn allows(&self, host: &str, address: IpAddr) -> bool {
        !is_near(address) || self.has_address(address) || self.has_whole_name(host)
    }

    fn has_address(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.any(|pattern| matches!(pattern, Pattern::Network(network) if network.contains(&address)))
    }

    fn has_whole_name(&self, host: &str) -> bool {
        self.any(|pattern| matches!(pattern, Pattern::Name(name) if name == without_dot(host)))
    }

    fn has_name(&self, host: &str) -> bool {
        let below = |pattern: &_| matches!(pattern, Pattern::Below(end) if without_dot(host).ends_with(end.as_str()));
        self.has_whole_name(host) || self.any(below)
    }

    fn any(&self, fits: impl Fn(&Pattern) -> bool) -> bool {
        self.listed.iter().flat_map(|listed| listed.iter()).any(|HostPattern(pattern)| fits(pattern))
    }
}

const NOT_LISTED: Error = Error::HostRefused("--authority-hosts does not name it");
const NEAR: Error = Error::HostRefused("it has a loopback, link-local, unspecified or multicast address");

/// The address of a host that is one. In a URL, one of IPv6 is in brackets.
fn address(host: &str) -> Option<IpAddr> {
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

/// A name that is fully qualified by a dot at its end is the same name.
fn without_dot(host: &str) -> &str {
    host.strip_suffix('.').unwrap_or(host)
}

fn is_local_name(host: &str) -> bool {
    let name = without_dot(host);
    name == "localhost" || name.ends_with(".localhost")
}

/// Whether an address leads to this machine or its link, where things listen that trust whatever can reach them.
fn is_near(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => {
            let this_network = address.octets()[0] == 0;
            this_network
                || address.is_loopback()
                || address.is_link_local()
                || address.is_multicast()
                || address.is_broadcast()
        }
        IpAddr::V6(address) => {
            address.is_unspecified()
                || address.is_loopback()
                || address.is_unicast_link_local()
                || address.is_multicast()
        }
    }
}

/// Resolves names to the addresses that may be called. The connection is made to these addresses, so a name that changes
/// between two look-ups gains nothing.
pub(super) struct Resolver {
    pub host: String,
    pub hosts: Hosts,
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let hosts = self.hosts.clone();
        // Any other name is that of a proxy, which the operator's environment has set.
        let is_host = name.as_str() == self.host;
        Box::pin(async move {
            let found: Vec<_> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let allowed: Vec<_> =
                found.iter().copied().filter(|found| !is_host || hosts.allows(name.as_str(), found.ip())).collect();
            match (allowed.is_empty(), found.is_empty()) {
                (true, false) => Err(NEAR.into()),
                (true, true) => Err(io::Error::from(io::ErrorKind::NotFound).into()),
                (false, _) => Ok(Box::new(allowed.into_iter()) as Addrs),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;

    fn hosts(listed: &[&str]) -> Hosts {
        Hosts::new(listed.iter().map(|text| text.parse().unwrap()).collect(), false)
    }

    fn may_call(hosts: &Hosts, host: &str) -> bool {
        hosts.check(&format!("https://{host}").parse().unwrap()).is_ok()
    }

    #[test]
    fn without_a_list_all_is_allowed_but_this_machine_and_its_link() {
        for host in ["api.netbird.io", "10.0.0.1", "192.168.1.1", "[fd00::1]", "[2001:db8::1]", "netbird"] {
            assert!(may_call(&hosts(&[]), host), "{host}");
        }
        for host in [
            "localhost",
            "LocalHost.",
            "a.localhost",
            "127.0.0.1",
            "127.9.9.9",
            "127.1",
            "0x7f000001",
            "2130706433",
            "①②⑦.0.0.1",
            "0.0.0.0",
            "169.254.169.254",
            "224.0.0.1",
            "255.255.255.255",
            "[::]",
            "[::1]",
            "[fe80::1]",
            "[ff02::1]",
            "[::ffff:127.0.0.1]",
            "[::ffff:a9fe:a9fe]",
        ] {
            assert!(!may_call(&hosts(&[]), host), "{host}");
        }
    }

    #[test]
    fn a_list_allows_what_it_names_and_nothing_else() {
        let hosts = hosts(&["netbird.example.com", "*.corp.example", "10.0.0.0/8", "127.0.0.1", "::1"]);
        for host in [
            "netbird.example.com",
            "NetBird.example.com.",
            "a.corp.example",
            "a.b.corp.example",
            "10.9.9.9",
            "[::ffff:10.1.1.1]",
            "127.0.0.1",
            "[::1]",
        ] {
            assert!(may_call(&hosts, host), "{host}");
        }
        for host in ["example.com", "a.netbird.example.com", "corp.example", "xcorp.example", "11.0.0.1", "127.0.0.2"] {
            assert!(!may_call(&hosts, host), "{host}");
        }
    }

    #[test]
    fn a_name_on_the_list_leads_anywhere_and_a_name_below_one_not_to_this_machine() {
        let loopback = IpAddr::from(Ipv4Addr::LOCALHOST);
        let listed = hosts(&["netbird.example.com", "*.corp.example"]);
        assert!(listed.allows("netbird.example.com", loopback));
        assert!(!listed.allows("a.corp.example", loopback));
        assert!(listed.allows("a.corp.example", IpAddr::from([10, 0, 0, 1])));
        assert!(hosts(&["*.corp.example", "127.0.0.1"]).allows("a.corp.example", loopback));
        assert!(!hosts(&[]).allows("netbird.example.com", loopback));
    }

    #[test]
    fn plain_http_takes_a_flag() {
        let url = "http://netbird.example.com".parse().unwrap();
        assert_eq!(Hosts::new(vec![], false).check(&url), Err(Error::Insecure));
        assert_eq!(Hosts::new(vec![], true).check(&url), Ok(()));
    }

    #[test]
    fn what_is_no_host_is_not_read() {
        for text in [
            "",
            "*",
            "*.",
            "a.*",
            "*a.example",
            "a b",
            "https://a",
            "a:443",
            "[::1]",
            "127.1",
            "10.1.2.3/8",
            "10.0.0.0/33",
            "a.",
        ] {
            assert_eq!(text.parse::<HostPattern>(), Err(InvalidHostPattern), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn an_address_in_its_form_of_ipv6_is_the_same_address(bytes: [u8; 4]) {
            let (four, six) = (Ipv4Addr::from(bytes), Ipv4Addr::from(bytes).to_ipv6_mapped());
            prop_assert_eq!(is_near(four.into()), is_near(six.into()));
            let hosts = hosts(&["10.0.0.0/8"]);
            prop_assert_eq!(hosts.has_address(four.into()), hosts.has_address(six.into()));
        }

        #[test]
        fn nothing_in_the_networks_of_this_machine_is_called(bytes: [u8; 3], net in 0usize..3) {
            let [b, c, d] = bytes;
            let address = [[127, b, c, d], [169, 254, c, d], [0, b, c, d]][net];
            prop_assert!(!may_call(&hosts(&[]), &Ipv4Addr::from(address).to_string()));
            let link = Ipv6Addr::new(0xfe80 | u16::from(b & 0x3f), 0, 0, 0, 0, 0, u16::from(c), u16::from(d));
            let link = format!("[{link}]");
            prop_assert!(!may_call(&hosts(&[]), &link));
        }
    }
}
