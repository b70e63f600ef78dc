//! How a pod gets its key. Pods identify the key by its digest and never print it.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Event, Pod};

use crate::{
    cluster::{Cluster, all, eventually},
    keys::sha256sum,
    pods::{Key, MOUNTED, Script},
};

pub async fn a_pod_created_before_its_key_waits_and_starts(cluster: Arc<Cluster>) {
    let place = cluster.namespace("before").await;
    let script = format!("sha256sum < {MOUNTED}; exec sleep 3600");
    place.start(Script { name: "early", script: &script, key: Key::Mounted("later") }).await;
    eventually("the kubelet to miss the Secret", || async {
        let events = place.api::<Event>().list(&all()).await.ok()?;
        let misses = |event: &Event| {
            event.reason.as_deref() == Some("FailedMount")
                && event.message.as_deref().is_some_and(|message| message.contains("\"later\" not found"))
        };
        events.items.iter().any(misses).then_some(())
    })
    .await;
    let status = place.api::<Pod>().get("early").await.unwrap().status.unwrap();
    assert_eq!(status.phase.as_deref(), Some("Pending"));

    place.apply_key("later", "");
    let status = place.ready("later").await;
    place.log_with("early", &sha256sum(&status)).await;
}

/// One file, which holds the key and nothing around it, such as a newline.
pub async fn a_pod_reads_the_key_from_a_directory_and_exactly_the_key(cluster: Arc<Cluster>) {
    let place = cluster.namespace("directory").await;
    place.apply_key("office", "");
    let status = place.ready("office").await;
    let script = format!("ls /etc/netbird; wc -c < {MOUNTED}; sha256sum < {MOUNTED}");
    place.start(Script { name: "reader", script: &script, key: Key::Mounted("office") }).await;
    let log = place.log_with("reader", " -\n").await;
    assert_eq!(log, format!("setup-key\n36\n{}  -\n", sha256sum(&status)));
}

pub async fn a_pod_gets_the_key_as_an_environment_variable(cluster: Arc<Cluster>) {
    let place = cluster.namespace("variable").await;
    place.apply_key("office", "");
    let status = place.ready("office").await;
    let script = "printf %s \"$NB_SETUP_KEY\" | sha256sum";
    place.start(Script { name: "reader", script, key: Key::Variable("office") }).await;
    let log = place.log_with("reader", " -\n").await;
    assert_eq!(log, format!("{}  -\n", sha256sum(&status)));
}
