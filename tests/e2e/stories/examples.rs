//! The examples, as written. Only the image is another one where the node cannot pull.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::{
    cluster::{Cluster, Place, eventually, repository},
    keys::sha256sum,
};

pub async fn each_example_with_a_pod_does_what_it_says(cluster: Arc<Cluster>) {
    // They are short, and do not speak of what Pod Security wants.
    let place = cluster.namespace_with("examples", json!({})).await;
    let mut told = Vec::new();
    for entry in std::fs::read_dir(repository().join("examples")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let manifest = std::fs::read_to_string(&path).unwrap();
        let documents: Vec<Value> = manifest.split("\n---\n").map(|part| serde_yaml::from_str(part).unwrap()).collect();
        if !documents.iter().any(|document| document["kind"] == "Pod") {
            continue;
        }
        place.kubectl(&["apply", "-f", "-"], &manifest.replace("busybox:1.37", &cluster.shell_image()));
        told.push(path.file_name().unwrap().to_string_lossy().into_owned());
    }
    told.sort();
    assert_eq!(told, ["pod-env.yaml", "pod-volume.yaml"], "say here what the new example does");
    tokio::join!(a_variable_keeps_its_value(&place), a_mounted_directory_follows(&place));
}

async fn a_variable_keeps_its_value(place: &Place<'_>) {
    place.log_with("batch", "the key has 36 characters\n").await;
    let held = || place.exec("batch", "printf %s \"$NB_SETUP_KEY\" | sha256sum");
    let first = place.ready("batch").await;
    assert!(held().starts_with(&sha256sum(&first)));
    place.replace_secret("batch", &first).await;
    assert!(held().starts_with(&sha256sum(&first)));
}

async fn a_mounted_directory_follows(place: &Place<'_>) {
    place.log_with("worker", "the key has 36 characters\n").await;
    let first = place.ready("workers").await;
    let second = sha256sum(&place.replace_secret("workers", &first).await);
    eventually("the file to hold the new key", || async {
        place.exec("worker", "sha256sum < /etc/netbird/setup-key").starts_with(&second).then_some(())
    })
    .await;
}
