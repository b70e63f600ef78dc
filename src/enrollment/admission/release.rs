//! Releases Peers from their finalizer once their entries are cleared. No machine waits for that, so requests for machines
//! that wait come first.

use std::time::Duration;

use futures::StreamExt;
use parking_lot::Mutex;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{Instant, timeout_at},
};
use tokio_stream::wrappers::ReceiverStream;

use super::limits::{RELEASES, WAITING_RELEASES};
use crate::{cluster::call::Error, enrollment::api_server::ApiServer};

/// How long a release is put off while machines wait. A Peer that is being deleted need not wait for it: the controller
/// releases such a Peer at once.
const PUT_OFF: Duration = Duration::from_secs(30);

/// How long the replica waits for the releases that are left when it ends.
const LAST_ONES: Duration = Duration::from_secs(5);

/// A Peer whose entry has been cleared.
pub struct Held {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    /// Since when it can be released.
    pub since: Instant,
}

/// The queue.
pub struct Releases {
    queue: Mutex<Option<mpsc::Sender<Held>>>,
    worker: Mutex<Option<JoinHandle<()>>>,
}

impl Releases {
    /// Starts the worker. `machines` is how many machines wait.
    pub fn start(api: ApiServer, machines: watch::Receiver<usize>) -> Self {
        let (sender, receiver) = mpsc::channel::<Held>(WAITING_RELEASES);
        let worker = tokio::spawn(ReceiverStream::new(receiver).for_each_concurrent(RELEASES, move |peer| {
            let (api, mut machines) = (api.clone(), machines.clone());
            async move {
                let _ = timeout_at(peer.since + PUT_OFF, machines.wait_for(|waiting| *waiting == 0)).await;
                match api.release(&peer.namespace, &peer.name, &peer.uid).await {
                    Ok(()) => {}
                    Err(error) if is_final(&error) => {}
                    Err(error) => tracing::debug!(%error, "could not release a Peer; the controller will"),
                }
            }
        }));
        Self { queue: Mutex::new(Some(sender)), worker: Mutex::new(Some(worker)) }
    }

    /// Releases a Peer later.
    pub fn later(&self, peer: Held) {
        if let Some(queue) = self.queue.lock().as_ref()
            && queue.try_send(peer).is_err()
        {
            tracing::debug!("too many Peers wait to be released; the controller will release this one");
        }
    }

    /// Releases the Peers that are left, as far as there is time.
    pub async fn end(&self) {
        drop(self.queue.lock().take());
        let worker = self.worker.lock().take();
        if let Some(worker) = worker
            && tokio::time::timeout(LAST_ONES, worker).await.is_err()
        {
            tracing::debug!("some Peers are not released yet; the controller will release them");
        }
    }
}

/// Whether the Peer was deleted, or has another finalizer before ours. The controller handles the latter.
fn is_final(error: &Error) -> bool {
    matches!(error.code(), Some(404 | 422))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::call::Attempt;

    fn answered(code: u16) -> Error {
        let status = kube::core::Status::failure("no", "").with_code(code).boxed();
        Error::Api { attempt: Attempt::on("release Peer", "n", "peer"), source: Box::new(kube::Error::Api(status)) }
    }

    #[test]
    fn a_peer_that_cannot_be_released_here_is_no_error() {
        assert!(is_final(&answered(404)) && is_final(&answered(422)));
        assert!(!is_final(&answered(403)) && !is_final(&answered(500)));
    }
}
