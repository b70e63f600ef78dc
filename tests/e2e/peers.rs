//! What stories do with pods that enroll, and with their Peers.

use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::{
    ResourceExt,
    api::{DeleteParams, PostParams},
};
use serde_json::json;
use setupkey_operator::api::{Peer, SetupKey};

use crate::{
    cluster::{Place, all, eventually},
    release::Release,
};

impl Place<'_> {
    /// Makes the pods of this namespace trust the certificate of the service, as in the examples.
    pub async fn publish_authority(&self) {
        let authority = json!({
            "metadata": { "name": "enrollment-ca" },
            "data": { "ca.crt": self.cluster.authority.certificate },
        });
        let authority = serde_json::from_value(authority).expect("a ConfigMap");
        self.api::<ConfigMap>().create(&PostParams::default(), &authority).await.expect("a created ConfigMap");
    }

    /// Starts a pod that joins with the key in this Secret. The pod is not restarted when it ends.
    pub async fn enroll(&self, pod: &str, secret: &str) {
        let server = format!("--server=https://{}", Release::of(self.cluster).enrollment_host());
        let container = json!({
            "name": "enroll",
            "image": self.cluster.operator_image(),
            "args": [
                "enroll", server, "--ca-file=/etc/enrollment/ca.crt", "--key-file=/etc/setup-key/setup-key",
                "--state-file=/state/peer", "--heartbeat=5s", "--log=trace",
            ],
            "volumeMounts": [
                { "name": "key", "mountPath": "/etc/setup-key", "readOnly": true },
                { "name": "authority", "mountPath": "/etc/enrollment", "readOnly": true },
                { "name": "state", "mountPath": "/state" },
            ],
        });
        let volumes = json!([
            { "name": "key", "secret": { "secretName": secret, "defaultMode": 0o400 } },
            { "name": "authority", "configMap": { "name": "enrollment-ca" } },
            { "name": "state", "emptyDir": { "medium": "Memory" } },
        ]);
        let mut manifest = self.restricted_pod(pod, container, volumes);
        // Longer than the program may take to leave.
        manifest["spec"]["terminationGracePeriodSeconds"] = 30.into();
        self.create_pod(manifest).await;
    }

    /// Starts such a pod, and waits for its Peer.
    pub async fn enrolled(&self, pod: &str, secret: &str) -> Peer {
        self.enroll(pod, secret).await;
        self.peer_of(pod).await
    }

    /// Waits for the one Peer with this hostname, and for its first heartbeat.
    pub async fn peer_of(&self, hostname: &str) -> Peer {
        eventually(&format!("a connected Peer of {}/{hostname}", self.namespace), || async {
            let peers = self.peers().await;
            let peer = peers.into_iter().find(|peer| peer.spec.hostname == hostname)?;
            peer.status.as_ref()?.connected.then_some(peer)
        })
        .await
    }

    pub async fn peers(&self) -> Vec<Peer> {
        self.api::<Peer>().list(&all()).await.expect("Peers").items
    }

    pub async fn used(&self, key: &str) -> i64 {
        self.api::<SetupKey>().get(key).await.expect("the SetupKey").status.unwrap_or_default().used_times
    }

    /// Waits for the pod's program to end, and returns its exit code.
    pub async fn exit_code(&self, pod: &str) -> i32 {
        eventually(&format!("the pod {}/{pod} to end", self.namespace), || async {
            let status = self.api::<Pod>().get(pod).await.ok()?.status?;
            Some(status.container_statuses?.first()?.state.as_ref()?.terminated.as_ref()?.exit_code)
        })
        .await
    }

    /// Deletes the pod and waits until it is gone. Its program has ended by then.
    pub async fn delete_pod(&self, pod: &str) {
        let pods = self.api::<Pod>();
        let uid = pods.get(pod).await.expect("the Pod").uid();
        pods.delete(pod, &DeleteParams::default()).await.expect("a deleted Pod");
        eventually(&format!("the pod {}/{pod} to be gone", self.namespace), || async {
            pods.get_opt(pod).await.ok()?.is_none_or(|now| now.uid() != uid).then_some(())
        })
        .await;
    }

    /// Whether the Peer was deleted. Its finalizer may hold it for a moment, until its entry is cleared.
    pub async fn has_left(&self, peer: &Peer) -> bool {
        let now = self.api::<Peer>().get_opt(&peer.name_any()).await.expect("an answer about the Peer");
        now.is_none_or(|now| now.uid() != peer.uid() || now.metadata.deletion_timestamp.is_some())
    }
}
