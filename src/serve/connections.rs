//! A listener with a limit on concurrent connections, all together and for each address ([`places`](super::places)).

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use axum::extract::connect_info::Connected;
use axum_server::{AddrListener, Address};
use prometheus_client::metrics::counter::Counter;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
};
use tokio_io_timeout::TimeoutStream;

use super::places::{Place, Places};

/// The address of a client of a [`BoundedListener`].
#[derive(Clone, Copy, Debug)]
pub struct ClientAddress(SocketAddr);

impl Address for ClientAddress {
    type Stream = Connection;
    type Listener = BoundedListener;
}

impl Connected<ClientAddress> for SocketAddr {
    fn connect_info(address: ClientAddress) -> Self {
        address.0
    }
}

/// A listener that serves a connection once there is a place for it, and closes it if its address holds too many.
pub struct BoundedListener {
    listener: TcpListener,
    places: Places,
    write_timeout: Duration,
    turned_away: Counter,
}

impl BoundedListener {
    /// A connection whose client accepts no bytes for `write_timeout` is closed. Those that get no place are counted.
    pub fn new(listener: TcpListener, places: Places, write_timeout: Duration, turned_away: Counter) -> Self {
        Self { listener, places, write_timeout, turned_away }
    }
}

impl AddrListener<Connection, ClientAddress> for BoundedListener {
    async fn bind_to(_: ClientAddress) -> io::Result<Self> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "a bounded listener is made from a TcpListener"))
    }

    async fn accept_stream(&self) -> io::Result<(Connection, ClientAddress)> {
        self.places.one_is_free().await;
        loop {
            let (stream, address) = self.listener.accept().await?;
            let Some(place) = self.places.take(address.ip()) else {
                self.turned_away.inc();
                continue;
            };
            // Answers are small and written at once, so Nagle's algorithm would only delay them.
            stream.set_nodelay(true)?;
            let mut stream = Box::pin(TimeoutStream::new(stream));
            stream.as_mut().set_write_timeout_pinned(Some(self.write_timeout));
            return Ok((Connection { stream, _place: place }, ClientAddress(address)));
        }
    }

    fn get_local_addr(&self) -> io::Result<ClientAddress> {
        self.listener.local_addr().map(ClientAddress)
    }
}

/// A connection. Dropping it makes room for the next one.
pub struct Connection {
    stream: Pin<Box<TimeoutStream<TcpStream>>>,
    _place: Place,
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.stream.as_mut().poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.stream.as_mut().poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream.as_mut().poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.as_mut().poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.as_mut().poll_shutdown(context)
    }
}
