//! A socket that takes so many connections at a time and no more.

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
pub struct Peer(SocketAddr);

impl Address for Peer {
    type Stream = Connection;
    type Listener = BoundedListener;
}

impl Connected<Peer> for SocketAddr {
    fn connect_info(peer: Peer) -> Self {
        peer.0
    }
}

/// A listener that leaves a connection in the kernel's queue while there are as many as there may be.
///
/// Nothing of this process is spent on a connection that waits, not even a file descriptor.
pub struct BoundedListener {
    listener: TcpListener,
    free: Arc<Semaphore>,
    stalled: Duration,
}

impl BoundedListener {
    pub fn new(listener: TcpListener, most: usize, stalled: Duration) -> Self {
        Self { listener, free: Arc::new(Semaphore::new(most)), stalled }
    }
}

impl AddrListener<Connection, Peer> for BoundedListener {
    async fn bind_to(_: Peer) -> io::Result<Self> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "a bounded listener is made of one that listens"))
    }

    async fn accept_stream(&self) -> io::Result<(Connection, Peer)> {
        let place = Arc::clone(&self.free).acquire_owned().await.map_err(io::Error::other)?;
        let (stream, address) = self.listener.accept().await?;
        // Answers are small and written at once, so there is nothing to gather.
        stream.set_nodelay(true)?;
        let mut stream = Box::pin(TimeoutStream::new(stream));
        stream.as_mut().set_write_timeout_pinned(Some(self.stalled));
        Ok((Connection { stream, _place: place }, Peer(address)))
    }

    fn get_local_addr(&self) -> io::Result<Peer> {
        self.listener.local_addr().map(Peer)
    }
}

/// A connection; its place is free again when it is dropped.
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
