//! What `kubectl setupkey join` prints, applied.

use std::{
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
};

use setupkey_operator::api::Peer;

use crate::{
    cluster::{Cluster, Place, eventually, said, variable},
    netbird::IMAGE,
    release::Release,
};

impl Place<'_> {
    /// Runs `kubectl setupkey` in this namespace, by kubectl. Returns what it printed.
    fn setupkey(&self, arguments: &[&str]) -> String {
        let kubectl = self.cluster.kubectl();
        let mut command = Command::new(kubectl.get_program());
        let folder = Path::new(env!("CARGO_BIN_EXE_kubectl-setupkey")).parent().expect("a folder").to_owned();
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths([folder].into_iter().chain(std::env::split_paths(&path))).expect("a PATH");
        command.env("PATH", path).stdin(Stdio::null()).arg("setupkey").args(arguments);
        command.args(kubectl.get_args()).args(["-n", &self.namespace]);
        let output = said(command.output().expect("kubectl runs"));
        output.unwrap_or_else(|error| panic!("kubectl setupkey {arguments:?} failed: {error}"))
    }
}

/// A Deployment, which Pod Security *restricted* accepts.
pub async fn pods_join_with_the_manifest_that_the_plugin_prints(cluster: Arc<Cluster>) {
    let place = cluster.namespace("plugin").await;
    place.publish_authority().await;
    place.apply_key("office", "ephemeral: true, usageLimit: 1, secret: {name: keys, key: office}");
    place.ready("office").await;
    let server = format!("https://{}", Release::of(&cluster).enrollment_host());
    let manifest = place.setupkey(&[
        "join",
        "office",
        "--for",
        "kubernetes",
        "--server",
        &server,
        "--image",
        &cluster.operator_image(),
        "--ca-config-map",
        "enrollment-ca",
    ]);
    place.kubectl(&["apply", "-f", "-"], &manifest);
    let is_there = |peer: &Peer| {
        peer.spec.hostname.starts_with("enroll-office-") && peer.status.as_ref().is_some_and(|status| status.connected)
    };
    eventually("the pod to be a connected Peer", || async { place.peers().await.iter().any(is_there).then_some(()) })
        .await;
    assert!(place.setupkey(&["peers", "office"]).contains("enroll-office-"), "the plugin does not list the Peer");
}

/// NetBird's agent, with the URL of the authority.
pub async fn pods_join_netbird_with_the_manifest_that_the_plugin_prints(cluster: Arc<Cluster>) {
    let place = cluster.namespace("plugin-vpn").await;
    let netbird = cluster.netbird().await;
    let api = netbird.connect(&cluster).await;
    place.publish_authority().await;
    place.apply_key("vpn", "authorityRef: {kind: ClusterAuthority, name: netbird}, ephemeral: true");
    place.ready("vpn").await;
    let image = variable(IMAGE).expect("the story says that it needs an image of NetBird");
    let manifest =
        place.setupkey(&["join", "vpn", "--for", "kubernetes", "--image", &image, "--ca-config-map", "enrollment-ca"]);
    place.kubectl(&["apply", "-f", "-"], &manifest);
    api.peers_connected(1, |hostname| hostname.starts_with("netbird-vpn-")).await;
}
