//! Taking the finalizer off Peers whose entry has been cleared: nobody waits for it, so those who do wait come first.

use std::time::Duration;

use futures::StreamExt;
use parking_lot::Mutex;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{Instant, timeout_at},
};
use tokio_stream::wrappers::ReceiverStream;

use crate::enrollment::api_server::ApiServer;

/// Requests at the same time.
const IN_FLIGHT: usize = 2;

/// Peers that may wait. The controller releases what has no place here.
const WAITING: usize = 16_384;

/// How long a Peer is held while machines wait. Whoever wants to delete it need not wait: then the controller releases it.
const HELD: Duration = Duration::from_secs(5);

/// How long the end waits for those that are left.
const LAST_ONES: Duration = Duration::from_secs(5);

/// A Peer whose entry has been cleared.
pub struct Cleared {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub since: Instant,
}

/// The queue.
pub struct Releases {
    queue: Mutex<Option<mpsc::Sender<Cleared>>>,
    worker: Mutex<Option<JoinHandle<()>>>,
}

impl Releases {
    /// Starts to work. `machines` is how many wait.
    pub fn start(objects: ApiServer, machines: watch::Receiver<usize>) -> Self {
        let (sender, receiver) = mpsc::channel::<Cleared>(WAITING);
        let worker = tokio::spawn(ReceiverStream::new(receiver).for_each_concurrent(IN_FLIGHT, move |peer| {
            let (objects, mut machines) = (objects.clone(), machines.clone());
            async move {
                let _ = timeout_at(peer.since + HELD, machines.wait_for(|waiting| *waiting == 0)).await;
                match objects.release(&peer.namespace, &peer.name, &peer.uid).await {
                    Ok(()) => {}
                    // It has gone, or other finalizers stand before ours. The controller looks after the latter.
                    Err(error) if matches!(error.code(), Some(404 | 422)) => {}
                    Err(error) => tracing::debug!(%error, "left to the controller"),
                }
            }
        }));
        Self { queue: Mutex::new(Some(sender)), worker: Mutex::new(Some(worker)) }
    }

    /// Has a Peer released when there is time.
    pub fn later(&self, peer: Cleared) {
        if let Some(queue) = self.queue.lock().as_ref()
            && queue.try_send(peer).is_err()
        {
            tracing::debug!("too many Peers wait to be released; the rest is left to the controller");
        }
    }

    /// Works off what is left, as far as there is time.
    pub async fn end(&self) {
        drop(self.queue.lock().take());
        let worker = self.worker.lock().take();
        if let Some(worker) = worker
            && tokio::time::timeout(LAST_ONES, worker).await.is_err()
        {
            tracing::debug!("the rest of the Peers is left to the controller");
        }
    }
}
