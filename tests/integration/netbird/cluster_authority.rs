//! One account for the keys of the namespaces that a ClusterAuthority selects.

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, api::DeleteParams};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use setupkey_operator::api::ClusterAuthority;

use crate::harness::{Cluster, Setup, condition, eventually, netbird::NetBird, says};

/// The operator's namespace, where the tokens are.
const NAMESPACE: &str = "setupkey-system";

/// A ClusterAuthority with its token, for the namespaces with a label that names it.
struct Account<'a> {
    cluster: &'a Cluster,
    name: String,
}

impl<'a> Account<'a> {
    fn of(cluster: &'a Cluster, netbird: &NetBird) -> Self {
        let account = Self { cluster, name: netbird.prefix.clone() };
        let metadata = json!({ "name": account.name });
        let token = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": { "name": account.name, "namespace": NAMESPACE },
            "stringData": { "NB_API_KEY": netbird.admin.token.expose_secret() },
        });
        let authority = json!({
            "apiVersion": "setupkey.dev/v1alpha1", "kind": "ClusterAuthority", "metadata": metadata,
            "spec": {
                "netbird": { "url": netbird.base_url, "tokenSecretRef": { "name": account.name }, "interval": "30s" },
                "namespaceSelector": { "matchLabels": { "netbird": account.name } },
            },
        });
        for object in [token, authority] {
            let mut command = crate::harness::kubectl();
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), object.to_string()).unwrap();
            let output = command.args(["create", "-f"]).arg(file.path()).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        account
    }

    fn select(&self, value: &str) {
        let label = format!("netbird{value}");
        self.cluster.kubectl_ok(&["label", "namespace", &self.cluster.namespace, "--overwrite", &label], "");
    }

    async fn remove(self) {
        let authorities: Api<ClusterAuthority> = Api::all(self.cluster.client.clone());
        authorities.delete(&self.name, &DeleteParams::default()).await.unwrap();
        let secrets: Api<Secret> = Api::namespaced(self.cluster.client.clone(), NAMESPACE);
        secrets.delete(&self.name, &DeleteParams::default()).await.unwrap();
    }
}

/// Its keys are those of the test's namespace, and it uses ClusterAuthorities as one for all namespaces does.
fn for_the_cluster() -> Setup {
    let mut setup = Setup::default();
    setup.authorities.of_cluster = true;
    setup
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_authority_serves_the_namespaces_that_it_selects() {
    let netbird = NetBird::for_test("cluster_authority").await;
    let cluster = Cluster::for_test("cluster_authority").await;
    let account = Account::of(&cluster, &netbird);
    let spec = format!("authorityRef: {{kind: ClusterAuthority, name: {}}}, usageLimit: 3", account.name);
    let refused = async || {
        cluster.status_when("office", "refused", |status| says(status, "Stalled") == "True AuthorityNotAllowed").await
    };

    // An operator of some namespaces uses none.
    let operator = cluster.start_operator().await;
    cluster.apply("office", &spec);
    let status = refused().await;
    let message = &condition(&status, "Ready").unwrap().message;
    assert!(message.contains("works in some namespaces only and uses no ClusterAuthority"), "{message}");
    operator.stop().await;

    let operator = cluster.start_operator_with(for_the_cluster()).await;
    cluster
        .status_when("office", "not selected", |status| {
            condition(status, "Ready").is_some_and(|ready| ready.message.contains("does not select this namespace"))
        })
        .await;
    assert!(netbird.api.keys_named(&netbird.prefix).await.is_empty());
    assert!(netbird.api.keys_named(&cluster.namespace).await.is_empty(), "a key was created");

    account.select(&format!("={}", account.name));
    let status = cluster.ready("office").await;
    let id = status.id.clone().unwrap();
    let there = netbird.api.key(&id).await.expect("the key at NetBird");
    let uid = cluster.keys().get("office").await.unwrap().metadata.uid.unwrap();
    assert_eq!(there.name, format!("office [{}/office {uid}]", cluster.namespace));
    assert_eq!((there.usage_limit, there.valid), (3, true));
    eventually("the ClusterAuthority to be connected", || async {
        let authorities: Api<ClusterAuthority> = Api::all(cluster.client.clone());
        let status = authorities.get(&account.name).await.ok()?.status?;
        let is_ready = |found: &&_| is_connected(found);
        status.conditions.iter().find(is_ready).map(drop)
    })
    .await;

    // A namespace that is not selected any more keeps the key that it has.
    account.select("-");
    assert_eq!(refused().await.id.as_ref(), Some(&id));
    assert!(netbird.api.key(&id).await.expect("the key at NetBird").valid);
    account.select(&format!("={}", account.name));
    assert_eq!(cluster.ready("office").await.id.as_ref(), Some(&id));

    cluster.kubectl_ok(&["delete", "sk", "office"], "");
    assert!(netbird.api.key(&id).await.is_none(), "kubectl delete has returned, and the key is there");
    operator.stop().await;
    account.remove().await;
}

fn is_connected(condition: &k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition) -> bool {
    condition.type_ == "Ready" && condition.reason == "Connected"
}

/// What the operator adds to an object is its own, to kubectl and to GitOps tools.
#[tokio::test(flavor = "multi_thread")]
async fn kubectl_diff_is_empty_for_authorities_and_their_keys() {
    let netbird = NetBird::for_test("authority_diff").await;
    let cluster = Cluster::for_test("authority_diff").await;
    let group = netbird.group("two words").await;
    let token = netbird.admin.token.expose_secret();
    cluster.kubectl_ok(
        &["create", "-f", "-"],
        &json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "token" },
            "stringData": { "NB_API_KEY": token },
        })
        .to_string(),
    );
    let url = &netbird.base_url;
    let object = |kind: &str, name: &str, spec: Value| {
        json!({ "apiVersion": "setupkey.dev/v1alpha1", "kind": kind, "metadata": { "name": name }, "spec": spec })
            .to_string()
    };
    let cluster_name = netbird.prefix.as_str();
    let objects = [
        (
            "ska",
            "bare",
            object("Authority", "bare", json!({ "netbird": { "url": url, "tokenSecretRef": { "name": "token" } } })),
        ),
        (
            "ska",
            "full",
            object(
                "Authority",
                "full",
                json!({
                    "netbird": {
                        "url": url, "tokenSecretRef": { "name": "token", "key": "NB_API_KEY" }, "agentUrl": url,
                        "interval": "1m30s", "createGroups": true,
                    },
                    "allowedGroups": [group.name],
                }),
            ),
        ),
        (
            "skca",
            cluster_name,
            object(
                "ClusterAuthority",
                cluster_name,
                json!({
                    "netbird": { "url": url, "tokenSecretRef": { "name": "missing" } }, "namespaceSelector": {},
                }),
            ),
        ),
        ("sk", "plain", object("SetupKey", "plain", json!({ "authorityRef": { "name": "bare" } }))),
        (
            "sk",
            "whole",
            object(
                "SetupKey",
                "whole",
                json!({
                    "authorityRef": { "kind": "Authority", "name": "full" }, "autoGroups": [group.name],
                    "deletionPolicy": "Retain", "usageLimit": 3, "revoked": false,
                }),
            ),
        ),
    ];
    let operator = cluster.start_operator_with(for_the_cluster()).await;
    for (kind, name, manifest) in &objects {
        cluster.kubectl_ok(&["apply", "-f", "-"], manifest);
        let wanted = if *kind == "skca" { "TokenMissing" } else { "True" };
        eventually(&format!("{kind} {name} to be {wanted}"), || async {
            let ready = "jsonpath={.status.conditions[?(@.type==\"Ready\")]}";
            cluster.kubectl_ok(&["get", kind, name, "-o", ready], "").contains(wanted).then_some(())
        })
        .await;
        let diff = cluster.kubectl(&["diff", "-f", "-"], manifest);
        assert_eq!(String::from_utf8_lossy(&diff.stdout), "", "{name}");
        assert_eq!(diff.status.code(), Some(0), "{}", String::from_utf8_lossy(&diff.stderr));
        let server_side = ["diff", "--server-side", "--field-manager=kustomize-controller", "-f", "-"];
        let diff = cluster.kubectl(&server_side, manifest);
        assert!(matches!(diff.status.code(), Some(0 | 1)), "{}", String::from_utf8_lossy(&diff.stderr));
        assert_eq!(String::from_utf8_lossy(&diff.stdout).matches("\n+  ").count(), 0, "{name}: server-side");
    }
    // Flux applies again and again; the finalizer stays.
    let forced = ["apply", "--server-side", "--force-conflicts", "--field-manager=kustomize-controller", "-f", "-"];
    cluster.kubectl_ok(&forced, &objects[3].2);
    let key = cluster.keys().get("plain").await.unwrap();
    assert_eq!(key.metadata.finalizers, Some(vec!["setupkey.dev/authority".to_owned()]));
    assert_eq!(key.metadata.generation, Some(1));
    cluster.kubectl_ok(&["delete", "sk", "--all"], "");
    cluster.kubectl_ok(&["delete", "skca", cluster_name], "");
    operator.stop().await;
}
