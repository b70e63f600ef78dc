//! A listener with a limit on concurrent connections.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::extract::connect_info::Connected;
use axum_server::{AddrListener, Address};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_io_timeout::TimeoutStream;

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

/// A listener that leaves further connections in the kernel's queue once the limit is reached.
///
/// A connection that waits there costs this process nothing, not even a file descriptor.
pub struct BoundedListener {
    listener: TcpListener,
    places: Arc<Semaphore>,
    write_timeout: Duration,
}

impl BoundedListener {
    /// At most `limit` connections at a time. One whose client accepts no bytes for `write_timeout` is closed.
    pub fn new(listener: TcpListener, limit: usize, write_timeout: Duration) -> Self {
        Self { listener, places: Arc::new(Semaphore::new(limit)), write_timeout }
    }
}

impl AddrListener<Connection, ClientAddress> for BoundedListener {
    async fn bind_to(_: ClientAddress) -> io::Result<Self> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "a bounded listener is made from a TcpListener"))
    }

    async fn accept_stream(&self) -> io::Result<(Connection, ClientAddress)> {
        let place = Arc::clone(&self.places).acquire_owned().await.map_err(io::Error::other)?;
        let (stream, address) = self.listener.accept().await?;
        // Answers are small and written at once, so Nagle's algorithm would only delay them.
        stream.set_nodelay(true)?;
        let mut stream = Box::pin(TimeoutStream::new(stream));
        stream.as_mut().set_write_timeout_pinned(Some(self.write_timeout));
        Ok((Connection { stream, _place: place }, ClientAddress(address)))
    }

    fn get_local_addr(&self) -> io::Result<ClientAddress> {
        self.listener.local_addr().map(ClientAddress)
    }
}

/// A connection. Dropping it makes room for the next one.
pub struct Connection {
    stream: Pin<Box<TimeoutStream<TcpStream>>>,
    _place: OwnedSemaphorePermit,
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
