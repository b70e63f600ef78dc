//! A NetBird server in a pod of the cluster, for all stories that need one, and the examples whose agents join there.

use std::{ops::Deref, path::PathBuf};

use base64::{Engine, prelude::BASE64_STANDARD};
use control_plane::netbird::{self as control_plane_netbird, Api, MANAGEMENT_CONFIG, Management, Peer, Tokens};
use k8s_openapi::api::core::v1::{Pod, Secret, Service};
use kube::{
    ResourceExt,
    api::{Api as KubeApi, ListParams, PostParams},
};
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use crate::{
    cluster::{Cluster, Place, eventually, repository, variable},
    forward::Forward,
    release::Release,
};

/// Has the agent and the servers, all in `/usr/local/bin`, where NetBird's own images have the agent.
pub const IMAGE: &str = "E2E_NETBIRD_IMAGE";

/// The name of the pod and of its Service.
const SERVER: &str = "netbird";

/// Where the server's pod has its files.
const CONFIG: &str = "/etc/netbird";
const DATA: &str = "/data";

/// A running server with an account, and the ClusterAuthority of the examples, which refers to it.
pub struct NetBird {
    place_of_server: String,
    management: Management,
    tokens: Tokens,
}

/// NetBird's API, as the owner of the account uses it. The connection ends with this value.
pub struct Connection {
    api: Api,
    _forward: Forward,
}

impl Deref for Connection {
    type Target = Api;

    fn deref(&self) -> &Api {
        &self.api
    }
}

impl NetBird {
    pub async fn start(cluster: &Cluster) -> Self {
        let place = cluster.namespace("netbird").await;
        let host = format!("{SERVER}.{}.svc", place.namespace);
        let management = Management { config: PathBuf::from(CONFIG), data: PathBuf::from(DATA), host };
        start_server(&place, &management).await;
        let forward = Forward::open(&place, SERVER, Management::PORT).await;
        let (url, authority) = (url_of(&forward), cluster.authority.certificate.clone());
        let tokens = tokio::task::spawn_blocking(move || control_plane_netbird::set_up(&url, &authority));
        let tokens = tokens.await.expect("a thread").unwrap_or_else(|error| panic!("{}", error.sentence()));
        let netbird = Self { place_of_server: place.namespace, management, tokens };
        netbird.authorize(cluster).await;
        netbird
    }

    /// Applies the Secret and the `ClusterAuthority` of the example, with the server and the token of this run.
    async fn authorize(&self, cluster: &Cluster) {
        let release = Release::of(cluster);
        let [mut secret, mut authority, _] = <[Value; 3]>::try_from(documents("netbird-authority.yaml")).unwrap();
        secret["metadata"]["namespace"] = release.namespace.as_str().into();
        secret["stringData"]["NB_API_KEY"] = self.tokens.admin.expose_secret().into();
        let secret = serde_json::from_value(secret).expect("a Secret");
        release.api::<Secret>().create(&PostParams::default(), &secret).await.expect("a created Secret");

        let netbird = &mut authority["spec"]["netbird"];
        netbird["url"] = self.management.url().into();
        netbird["caBundle"] = BASE64_STANDARD.encode(&cluster.authority.certificate).into();
        netbird["interval"] = "30s".into();
        let place = Place { cluster, namespace: release.namespace };
        place.kubectl(&["apply", "-f", "-"], &authority.to_string());
        place.kubectl(&["wait", "--for=condition=Ready", "--timeout=60s", "clusterauthority/netbird"], "");
    }

    pub async fn connect(&self, cluster: &Cluster) -> Connection {
        let place = Place { cluster, namespace: self.place_of_server.clone() };
        let forward = Forward::open(&place, SERVER, Management::PORT).await;
        let api = Api::new(&url_of(&forward), &cluster.authority.certificate, &self.tokens.owner);
        Connection { api, _forward: forward }
    }

    /// An example as written, but for the images, the server, and the certificate that agents trust.
    pub fn example(&self, cluster: &Cluster, file: &str) -> Vec<Value> {
        let mut documents = documents(file);
        for document in &mut documents {
            let of_template = document["kind"] != "Pod";
            let spec = if of_template { document.pointer_mut("/spec/template/spec") } else { document.get_mut("spec") };
            if let Some(spec) = spec.filter(|spec| spec.get("containers").is_some()) {
                self.adapt(cluster, spec);
            }
        }
        documents
    }

    fn adapt(&self, cluster: &Cluster, spec: &mut Value) {
        for container in list(spec, "containers") {
            if container["image"] == "busybox:1.37" {
                container["image"] = cluster.shell_image().into();
                continue;
            }
            container["image"] = image().into();
            let env = list(container, "env");
            // Where an example sets none, the agent has it from the Secret.
            for variable in env.iter_mut().filter(|variable| variable["name"] == "NB_MANAGEMENT_URL") {
                variable["value"] = self.management.url().into();
            }
            env.push(json!({ "name": "SSL_CERT_FILE", "value": "/etc/authority/ca.crt" }));
            list(container, "volumeMounts").push(json!({ "name": "authority", "mountPath": "/etc/authority" }));
        }
        for volume in list(spec, "volumes") {
            // kubectl reads 0440 as octal. This reader of YAML, which is of a later version, does not.
            if let Some(mode) = volume.pointer_mut("/secret/defaultMode") {
                *mode = i32::from_str_radix(mode.as_str().expect("octal digits"), 8).expect("octal digits").into();
            }
        }
        list(spec, "volumes").push(json!({ "name": "authority", "configMap": { "name": "enrollment-ca" } }));
    }
}

impl Connection {
    /// Waits until this many peers with such hostnames are connected, and there are no others.
    pub async fn peers_connected(&self, count: usize, hostname: impl Fn(&str) -> bool) -> Vec<Peer> {
        eventually(&format!("{count} peers to be connected"), || async {
            let mut peers = self.peers().await;
            peers.retain(|peer| hostname(&peer.hostname));
            (peers.len() == count && peers.iter().all(|peer| peer.connected)).then_some(peers)
        })
        .await
    }
}

impl Place<'_> {
    pub fn apply(&self, documents: &[Value]) {
        for document in documents {
            self.kubectl(&["apply", "-f", "-"], &document.to_string());
        }
    }
}

fn image() -> String {
    variable(IMAGE).expect("the story says that it needs an image of NetBird")
}

fn url_of(forward: &Forward) -> String {
    format!("https://127.0.0.1:{}", forward.port())
}

fn documents(file: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(repository().join("examples").join(file)).expect("an example");
    text.split("\n---\n").map(|document| serde_yaml::from_str(document).expect("YAML")).collect()
}

/// The list in this field, which is made if it is missing.
fn list<'a>(object: &'a mut Value, field: &str) -> &'a mut Vec<Value> {
    if object[field].is_null() {
        object[field] = json!([]);
    }
    object[field].as_array_mut().expect("a list")
}

/// Returns when the server answers.
async fn start_server(place: &Place<'_>, management: &Management) {
    let (certificate, key) = place.cluster.authority.certify(&[&management.host, "127.0.0.1"]);
    let files = json!({
        "metadata": { "name": SERVER },
        "stringData": {
            MANAGEMENT_CONFIG: management.contents(),
            control_plane_netbird::CERTIFICATE: certificate,
            control_plane_netbird::KEY: key,
        },
    });
    let files = serde_json::from_value(files).expect("a Secret");
    place.api::<Secret>().create(&PostParams::default(), &files).await.expect("a created Secret");
    let ports = [("management", Management::PORT), ("signal", Management::SIGNAL_PORT)];
    let service = json!({
        "metadata": { "name": SERVER },
        "spec": {
            "selector": { "app": SERVER },
            "ports": ports.map(|(name, port)| json!({ "name": name, "port": port })),
        },
    });
    let service = serde_json::from_value(service).expect("a Service");
    place.api::<Service>().create(&PostParams::default(), &service).await.expect("a created Service");

    let variables = management.variables();
    let container = json!({
        "name": "management",
        "image": image(),
        "command": ["/usr/local/bin/netbird-management"],
        "args": management.args(),
        "env": variables.iter().map(|(name, value)| json!({ "name": name, "value": value })).collect::<Vec<_>>(),
        "readinessProbe": {
            "httpGet": { "scheme": "HTTPS", "path": "/api/instance", "port": Management::PORT },
            "periodSeconds": 1,
        },
        "volumeMounts": [
            { "name": "files", "mountPath": CONFIG, "readOnly": true },
            { "name": "data", "mountPath": DATA },
            { "name": "tmp", "mountPath": "/tmp" },
        ],
    });
    let volumes = json!([
        { "name": "files", "secret": { "secretName": SERVER, "defaultMode": 0o440 } },
        { "name": "data", "emptyDir": {} },
        { "name": "tmp", "emptyDir": {} },
    ]);
    let mut pod = place.restricted_pod(SERVER, container, volumes);
    pod["metadata"]["labels"] = json!({ "app": SERVER });
    let mut signal = pod["spec"]["containers"][0].clone();
    for field in ["env", "readinessProbe", "volumeMounts"] {
        signal.as_object_mut().expect("a container").remove(field);
    }
    signal["name"] = "signal".into();
    signal["command"] = json!(["/usr/local/bin/netbird-signal"]);
    signal["args"] = json!(management.signal_args());
    list(&mut pod["spec"], "containers").push(signal);
    place.create_pod(pod).await;
    eventually("NetBird to answer", || async {
        let conditions = place.api::<Pod>().get(SERVER).await.ok()?.status?.conditions?;
        conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True").then_some(())
    })
    .await;
}

/// The pods with this value of the label `app.kubernetes.io/name` whose containers all run.
pub async fn running_pods(place: &Place<'_>, name: &str) -> Vec<String> {
    let pods: KubeApi<Pod> = place.api();
    let pods = pods.list(&ListParams::default().labels(&format!("app.kubernetes.io/name={name}"))).await;
    let runs = |pod: &Pod| pod.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Running"));
    pods.expect("pods").into_iter().filter(runs).map(|pod| pod.name_any()).collect()
}
