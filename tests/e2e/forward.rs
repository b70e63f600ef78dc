//! Ports of pods, reached from the stories through the API server.

use std::{
    io::{BufRead, BufReader},
    net::Ipv4Addr,
    process::{Child, ChildStdout, Stdio},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::cluster::Place;

/// A port of this machine that leads to a port of a pod, also to one that listens on the pod's loopback only. It is closed
/// when this value is dropped.
pub struct Forward {
    port: u16,
    kubectl: Child,
    // It names each connection, and ends when no one can read that.
    _output: BufReader<ChildStdout>,
}

impl Drop for Forward {
    fn drop(&mut self) {
        // It may have ended with the pod.
        let _ = self.kubectl.kill();
        let _ = self.kubectl.wait();
    }
}

impl Forward {
    pub async fn open(place: &Place<'_>, pod: &str, port: u16) -> Self {
        let mut command = place.cluster.kubectl();
        command.args(["--namespace", &place.namespace, "port-forward", &format!("pod/{pod}"), &format!(":{port}")]);
        command.args(["--address", "127.0.0.1"]).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut kubectl = command.spawn().expect("kubectl runs");
        let mut output = BufReader::new(kubectl.stdout.take().expect("its output"));
        let first_line = tokio::task::spawn_blocking(move || {
            let mut line = String::new();
            output.read_line(&mut line).map(|_| (line, output))
        });
        let (line, output) = first_line.await.expect("a thread").expect("kubectl writes");
        // Forwarding from 127.0.0.1:34567 -> 8443
        let port = line.split_whitespace().find_map(|word| word.strip_prefix("127.0.0.1:")?.parse().ok());
        let port = port.unwrap_or_else(|| panic!("no port leads to the pod {}/{pod}: {line:?}", place.namespace));
        Self { port, kubectl, _output: output }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// What a web server answers to `GET /` that is reached through the SOCKS5 proxy behind this port.
    pub async fn get_by_socks(&self, address: Ipv4Addr, port: u16) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
        // Version 5 and one method: no authentication.
        stream.write_all(&[5, 1, 0]).await?;
        let mut choice = [0; 2];
        stream.read_exact(&mut choice).await?;
        // Connect to an address of IPv4.
        let target = [[5, 1, 0, 1].as_slice(), &address.octets(), &port.to_be_bytes()].concat();
        stream.write_all(&target).await?;
        let mut reply = [0; 10];
        stream.read_exact(&mut reply).await?;
        if reply[1] != 0 {
            return Err(std::io::Error::other(format!("the proxy refuses with {}", reply[1])));
        }
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    }
}
