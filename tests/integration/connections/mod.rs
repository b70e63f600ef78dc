//! The ways to the API server that kubeconfigs and the environment describe, and connections that fall silent.

pub mod relay;

use std::{
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::Path,
    time::{Duration, Instant},
};

use relay::{Kind, Relay};
use serde_json::{Value, json};
use setupkey_operator::cluster::call::SILENCE;

use crate::{
    harness::{Cluster, eventually, operator_kubeconfig, operator_token},
    process::Process,
};

/// What a process needs for its first look at the cluster.
const FLAGS: &[&str] = &["--health-address", "127.0.0.1:0"];

/// A name of the API server by which only a proxy can find it.
const ELSEWHERE: &str = "https://kube.example.invalid:6443";

struct Place {
    cluster: Cluster,
    folder: tempfile::TempDir,
    kubeconfig: Value,
}

impl Place {
    async fn new(test: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = operator_kubeconfig(folder.path());
        let kubeconfig = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        Self { cluster: Cluster::for_test(test).await, folder, kubeconfig }
    }

    fn server(&self) -> SocketAddr {
        self.entry()["server"].as_str().unwrap().trim_start_matches("https://").parse().unwrap()
    }

    fn entry(&self) -> &Value {
        &self.kubeconfig["clusters"][0]["cluster"]
    }

    /// The entry of the cluster in the kubeconfig gets these fields. The certificate is that of 127.0.0.1.
    fn with_cluster(mut self, fields: Value) -> Self {
        let entry = self.kubeconfig["clusters"][0]["cluster"].as_object_mut().unwrap();
        entry.insert("tls-server-name".to_owned(), "127.0.0.1".into());
        entry.extend(fields.as_object().unwrap().clone());
        self
    }

    /// The API server of the kubeconfig is a relay.
    async fn behind_a_relay(test: &str) -> (Self, Relay) {
        let place = Self::new(test).await;
        let relay = Relay::start(Kind::Plain, place.server()).await;
        let server = format!("https://{}", relay.address);
        (place.with_cluster(json!({ "server": server })), relay)
    }

    fn with_user(mut self, user: Value) -> Self {
        self.kubeconfig["users"][0]["user"] = user;
        self
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn start(&self, variables: &[(&str, &str)]) -> Process {
        let path = self.path().join("used.kubeconfig");
        std::fs::write(&path, self.kubeconfig.to_string()).unwrap();
        let variables = [&[("KUBECONFIG", path.to_str().unwrap())], variables].concat();
        Process::start_in(&self.cluster, self.path(), "controller", FLAGS, &variables)
    }

    /// A controller with this kubeconfig and these variables issues a key.
    async fn works(&self, variables: &[(&str, &str)]) {
        let mut process = self.start(variables);
        process.logs("the caches are filled").await;
        self.cluster.apply("office", "");
        self.cluster.ready("office").await;
        process.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_of_the_kubeconfig_is_used_whatever_no_proxy_says() {
    for (kind, scheme) in [(Kind::Http, "http"), (Kind::Socks, "socks5")] {
        let place = Place::new(&format!("proxy-url-{scheme}")).await;
        let proxy = Relay::start(kind, place.server()).await;
        let url = format!("{scheme}://{}", proxy.address);
        let place = place.with_cluster(json!({ "server": ELSEWHERE, "proxy-url": url }));
        place.works(&[("NO_PROXY", "*"), ("HTTPS_PROXY", "http://127.0.0.1:9")]).await;
        assert!(proxy.connections() > 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_of_the_environment_is_used_for_servers_elsewhere() {
    let place = Place::new("https-proxy").await;
    let proxy = Relay::start(Kind::Http, place.server()).await;
    let place = place.with_cluster(json!({ "server": ELSEWHERE }));
    // Without a scheme, and with an empty entry in the list of exceptions, as both are often written.
    place.works(&[("HTTPS_PROXY", &proxy.address.to_string()), ("NO_PROXY", "localhost,127.0.0.1,")]).await;
    assert!(proxy.connections() > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_on_this_machine_is_reached_directly() {
    let place = Place::new("this-machine").await;
    place.works(&[("HTTPS_PROXY", "http://127.0.0.1:9")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_of_the_kubeconfig_gives_the_token() {
    let place = Place::new("exec-plugin").await;
    let plugin = place.path().join("plugin.sh");
    let token = place.path().join("token");
    std::fs::write(&token, operator_token()).unwrap();
    // It is told which cluster it is for.
    let script = format!(
        r#"#!/bin/sh
case "$KUBERNETES_EXEC_INFO" in *{}*) ;; *) exit 1 ;; esac
printf '{{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":{{"token":"%s"}}}}' "$(cat {})"
"#,
        place.entry()["server"].as_str().unwrap(),
        token.display()
    );
    std::fs::write(&plugin, script).unwrap();
    std::fs::set_permissions(&plugin, PermissionsExt::from_mode(0o700)).unwrap();
    let place = place.with_user(json!({ "exec": {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": "./plugin.sh",
        "interactiveMode": "Never",
        "provideClusterInfo": true,
    } }));
    place.works(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_openid_connect_is_used() {
    // The token of a ServiceAccount is a JWT with an expiry, as an id token is.
    let place = Place::new("oidc").await.with_user(json!({ "auth-provider": {
        "name": "oidc",
        "config": {
            "client-id": "setupkey",
            "idp-issuer-url": "https://issuer.example.invalid",
            "id-token": operator_token(),
        },
    } }));
    place.works(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn several_files_are_read_as_one_kubeconfig() {
    let place = Place::new("several-files").await;
    let part = |name: &str, keys: &[&str]| {
        let mut part = place.kubeconfig.clone();
        part.as_object_mut().unwrap().retain(|key, _| keys.contains(&key.as_str()));
        let path = place.path().join(name);
        std::fs::write(&path, part.to_string()).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let files =
        [part("first", &["apiVersion", "kind", "users"]), part("second", &["clusters", "contexts", "current-context"])];
    place.works(&[("KUBECONFIG", &format!("{}::{}", files[0], files[1]))]).await;
}

/// Most idle watches are kept alive by bookmarks. One that is started again costs a request and says nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_silent_connection_is_noticed_and_an_idle_one_is_no_failure() {
    let (idle, silent) = (Place::behind_a_relay("idle").await, Place::behind_a_relay("silent").await);
    let mut processes = [idle.0.start(&[]), silent.0.start(&[])];
    for process in &processes {
        process.logs("the caches are filled").await;
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let connections = idle.1.connections();
    silent.1.fall_silent();
    let began = Instant::now();
    silent.0.cluster.apply("office", "");
    tokio::time::sleep(SILENCE).await;
    eventually("the key to be issued over new connections", || async {
        let key = silent.0.cluster.keys().get("office").await.ok()?;
        key.status.and_then(|status| status.digest)
    })
    .await;
    println!("a silent connection: noticed, and a key issued, after {:?}", began.elapsed());
    tokio::time::sleep((SILENCE + Duration::from_secs(15)).saturating_sub(began.elapsed())).await;
    // Where nothing of a kind has changed, no bookmarks come, and the watch is started again without a word.
    let (log, more) = (processes[0].log(), idle.1.connections() - connections);
    assert!(!log.contains("WARN") && !log.contains("ERROR"), "{log}");
    assert!(more <= 5, "{more} connections in place of idle ones");
    for process in &mut processes {
        process.stop().await;
    }
}
