//! A relay to the API server, which can fall silent. It can be a proxy that is asked for the way there.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    sync::watch,
};
use tokio_util::task::AbortOnDropHandle;

/// What a client says before its bytes are relayed.
#[derive(Clone, Copy)]
pub enum Kind {
    /// Nothing.
    Plain,
    /// CONNECT.
    Http,
    /// The handshake of SOCKS 5.
    Socks,
}

/// A relay. Whatever host a client asks for, it is connected with the API server.
pub struct Relay {
    pub address: SocketAddr,
    connections: Arc<AtomicUsize>,
    silence: watch::Sender<()>,
    _task: AbortOnDropHandle<()>,
}

impl Relay {
    pub async fn start(kind: Kind, server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let silence = watch::Sender::new(());
        let (count, silenced) = (Arc::clone(&connections), silence.clone());
        let task = tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                count.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(relay(kind, client, server, silenced.subscribe()));
            }
        });
        Self { address, connections, silence, _task: AbortOnDropHandle::new(task) }
    }

    /// How many connections were made so far.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// From now on, no byte passes on the connections that exist, and none of them is closed. New ones work.
    pub fn fall_silent(&self) {
        self.silence.send_replace(());
    }
}

async fn relay(kind: Kind, mut client: TcpStream, server: SocketAddr, mut silenced: watch::Receiver<()>) {
    match kind {
        Kind::Plain => {}
        Kind::Http => {
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(client.read_u8().await.unwrap());
            }
            assert!(request.starts_with(b"CONNECT "), "{}", String::from_utf8_lossy(&request));
            client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        }
        Kind::Socks => {
            let mut greeting = [0; 3];
            client.read_exact(&mut greeting).await.unwrap();
            client.write_all(&[5, 0]).await.unwrap();
            let mut request = [0; 5];
            client.read_exact(&mut request).await.unwrap();
            // A name follows its length, which is read. An IPv4 address has 4 bytes, and the first one is read.
            let rest = if request[3] == 3 { usize::from(request[4]) } else { 3 };
            client.read_exact(&mut vec![0; rest + 2]).await.unwrap();
            client.write_all(&[5, 0, 0, 1, 127, 0, 0, 1, 0, 0]).await.unwrap();
        }
    }
    let mut upstream = TcpStream::connect(server).await.unwrap();
    tokio::select! {
        _ = copy_bidirectional(&mut client, &mut upstream) => {}
        Ok(()) = silenced.changed() => std::future::pending().await,
    }
}
