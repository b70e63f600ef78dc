//! Listening on both families of addresses.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener as Listener},
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

/// Connections that the kernel keeps until they are accepted. Linux limits this to net.core.somaxconn.
const BACKLOG: i32 = 1024;

/// Listens on an address. `[::]` stands for every address of the machine, of IPv6 and of IPv4. On a machine without IPv6 it
/// stands for those of IPv4.
///
/// Whether `[::]` includes IPv4 is a setting of the system (net.ipv6.bindv6only), so this does not depend on the default.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = match bind(address) {
        Err(error) if address.is_ipv6() && address.ip().is_unspecified() && may_lack_ipv6(&error) => {
            bind((Ipv4Addr::UNSPECIFIED, address.port()).into())?
        }
        bound => bound?,
    };
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

fn bind(address: SocketAddr) -> io::Result<Listener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    // A restarted process need not wait for the connections of the last one to time out.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Whether the kernel may have no IPv6, or no address of it. Its error for the first has no kind of its own.
fn may_lack_ipv6(error: &io::Error) -> bool {
    !matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv6Addr, TcpStream};

    use super::*;

    #[tokio::test]
    async fn the_address_of_all_takes_connections_of_both_families() {
        let listener = listen("[::]:0".parse().unwrap()).unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok());
        assert!(TcpStream::connect((Ipv6Addr::LOCALHOST, port)).is_ok());
    }

    #[tokio::test]
    async fn an_address_of_one_family_takes_connections_of_that_family() {
        let listener = listen("0.0.0.0:0".parse().unwrap()).unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok());
        assert!(TcpStream::connect((Ipv6Addr::LOCALHOST, port)).is_err());
    }

    #[tokio::test]
    async fn an_address_that_is_taken_stays_an_error() {
        let taken = listen("[::]:0".parse().unwrap()).unwrap();
        let error = listen(taken.local_addr().unwrap()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }
}
