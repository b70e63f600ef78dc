//! The network of the machine: a loopback, the node's address, and what pods add. It has no connection to the outside.

use std::{
    fs,
    io::{self, Write},
    net::TcpStream,
};

use super::ADDRESS;
use crate::{Error, command::run};

/// The addresses of pods.
pub const POD_RANGE: &str = "10.244.0.0/24";

/// Must be called in the new network namespace.
pub fn set_up() -> Result<(), Error> {
    let address = format!("{ADDRESS}/24");
    for args in [
        ["link", "set", "lo", "up"].as_slice(),
        // A cable from the node to nowhere. Pods need this type of device anyway, and not every kernel has dummy
        // devices.
        &["link", "add", "node0", "type", "veth", "peer", "name", "nowhere"],
        &["link", "set", "nowhere", "up"],
        &["address", "add", &address, "dev", "node0"],
        &["link", "set", "node0", "up"],
        // The addresses of Services need a route before kube-proxy can redirect them.
        &["route", "add", "default", "dev", "node0"],
    ] {
        run("ip", args)?;
    }
    let forwarding = "/proc/sys/net/ipv4/ip_forward";
    fs::write(forwarding, "1").map_err(|source| Error::Write { path: forwarding.into(), source })
}

pub fn services_are_routed() -> bool {
    run("nft", &["list", "map", "ip", "kube-proxy", "service-ips"]).is_ok_and(|map| map.contains("10.96.0.1"))
}

/// Whether names can be resolved, by the answer of CoreDNS' plugin `ready`.
pub fn names_are_known() -> bool {
    let ask = || {
        let mut stream = TcpStream::connect(("127.0.0.1", 8181))?;
        stream.write_all(b"GET /ready HTTP/1.0\r\n\r\n")?;
        io::read_to_string(stream)
    };
    ask().is_ok_and(|answer: String| answer.split_whitespace().nth(1) == Some("200"))
}
