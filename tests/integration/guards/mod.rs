//! The guards of the chart: what the operator's own accounts and all others are refused, although RBAC would let them.
//!
//! Each attack is first seen to succeed without the guards. So these tests have a control plane without any, and each
//! test is a release of the chart with accounts of its own. Attacks are dry runs, which pass the same admission.

mod authorities;
mod keys;
mod peers;
mod releases;
mod secrets;
mod status;

use std::{process::Command, sync::OnceLock};

use control_plane::{ControlPlane, Options};
use kube::{
    Api, Client, Config,
    api::{DynamicObject, Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
    core::{ApiResource, GroupVersionKind},
};
use serde_json::{Value, json};

use crate::{
    chart::template_of,
    harness::{any_peer, crds, digest, eventually},
};

/// The guards, with the enrollment service.
const GUARDS: [&str; 4] = ["--show-only", "templates/guards.yaml", "--set", "enrollment.enabled=true"];

/// The time of another controller's condition. The enrollment service writes it in another format.
const THEIRS: &str = "2026-11-24T06:00:00.5+01:00";

/// The control plane without guards. It ends with this process.
fn unguarded_plane() -> &'static ControlPlane {
    static PLANE: OnceLock<ControlPlane> = OnceLock::new();
    PLANE.get_or_init(|| ControlPlane::start(Options { crds: vec![crds()], ..Options::default() }).unwrap())
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Account {
    Controller,
    Enrollment,
    /// A cluster administrator.
    Administrator,
}

#[derive(Clone, Debug)]
enum Request {
    Create(Value),
    Change(Value),
    PatchStatus(Value),
    /// Replaces the status, changed by this merge patch.
    ReplaceStatus(Value),
}

/// A request, the object that it is for, and what its refusal has to say.
type Attack = (Account, &'static str, &'static str, Request, &'static str);

/// A release of the chart, with a namespace for its accounts and its keys.
struct Release {
    name: String,
    namespace: String,
}

impl Release {
    /// Installs the rights of both accounts, in the release's namespace or everywhere.
    async fn install(test: &str, everywhere: bool) -> Self {
        // The accounts of a release that holds the name of the chart are named after the release.
        let name = format!("setupkey-operator-{test}-{:06x}", rand::random::<u32>() >> 8);
        let release = Self { namespace: format!("{name}-system"), name };
        let namespace = json!({ "metadata": { "name": release.namespace } });
        let namespaces = release.everywhere(Account::Administrator, "Namespace").await;
        namespaces.create(&PostParams::default(), &serde_json::from_value(namespace).unwrap()).await.unwrap();
        let rights = ["--show-only", "templates/rbac.yaml", "--show-only", "templates/enrollment-rbac.yaml"];
        let scope = ["--set", &release.scope()];
        let scope = if everywhere { &[] } else { scope.as_slice() };
        release.apply(&[&rights, ["--set", "enrollment.enabled=true"].as_slice(), scope].concat());
        release
    }

    fn scope(&self) -> String {
        format!("scope.namespaces={{{}}}", self.namespace)
    }

    /// Installs the guards with these values. They are in force a moment later.
    fn guard(&self, values: &[&str]) {
        let values = values.iter().flat_map(|value| ["--set", value]);
        self.apply(&GUARDS.into_iter().chain(values).collect::<Vec<_>>());
    }

    fn apply(&self, arguments: &[&str]) {
        let manifest = template_of(&self.name, &self.namespace, arguments);
        let plane = unguarded_plane();
        let file = plane.dir().join(format!("{}.yaml", self.name));
        std::fs::write(&file, &manifest).unwrap();
        let mut apply = Command::new(plane.kubectl());
        apply.arg("--kubeconfig").arg(plane.kubeconfig()).args(["apply", "--server-side", "-f"]);
        let applied = apply.arg(file).output().unwrap();
        assert!(applied.status.success(), "{}\n{manifest}", String::from_utf8_lossy(&applied.stderr));
    }

    fn user(&self, account: Account) -> String {
        let name = match account {
            Account::Controller => self.name.clone(),
            Account::Enrollment => format!("{}-enrollment", self.name),
            Account::Administrator => return "eve".to_owned(),
        };
        format!("system:serviceaccount:{}:{name}", self.namespace)
    }

    async fn client(&self, account: Account) -> Client {
        let groups = if account == Account::Administrator { vec!["system:masters"] } else { Vec::new() };
        client_of(&self.user(account), &groups).await
    }

    async fn everywhere(&self, account: Account, kind: &str) -> Api<DynamicObject> {
        Api::all_with(self.client(account).await, &resource(kind))
    }

    async fn api(&self, account: Account, kind: &str) -> Api<DynamicObject> {
        if kind == "ClusterAuthority" {
            return self.everywhere(account, kind).await;
        }
        Api::namespaced_with(self.client(account).await, &self.namespace, &resource(kind))
    }

    /// Sends a request of this account. Returns the API server's refusal.
    async fn send(&self, account: Account, kind: &str, name: &str, request: Request, dry_run: bool) -> Option<String> {
        let api = self.api(account, kind).await;
        let (post, patch) =
            (PostParams { dry_run, ..Default::default() }, PatchParams { dry_run, ..Default::default() });
        let answer = match request {
            Request::Create(mut object) => {
                object["metadata"]["name"] = name.into();
                api.create(&post, &serde_json::from_value(object).unwrap()).await
            }
            Request::Change(change) => api.patch(name, &patch, &Patch::Merge(change)).await,
            Request::PatchStatus(status) => {
                api.patch_status(name, &patch, &Patch::Merge(json!({ "status": status }))).await
            }
            Request::ReplaceStatus(status) => {
                let object = self.api(Account::Administrator, kind).await.get(name).await.unwrap();
                let mut object = serde_json::to_value(object).unwrap();
                json_patch::merge(&mut object, &json!({ "status": status }));
                api.replace_status(name, &post, &serde_json::from_value::<DynamicObject>(object).unwrap()).await
            }
        };
        match answer {
            Ok(_) => None,
            Err(kube::Error::Api(refusal)) => Some(refusal.message.clone()),
            Err(error) => panic!("{error}"),
        }
    }

    /// Sends a request that has to succeed.
    async fn does(&self, account: Account, kind: &str, name: &str, request: Request) {
        let refusal = self.send(account, kind, name, request.clone(), false).await;
        assert_eq!(refusal, None, "{account:?}: {request:?}");
    }

    /// Each attack succeeds until the guards are there, and is refused from then on.
    async fn repels(&self, attacks: &[Attack], guards: &[&str]) {
        for (account, kind, name, request, _) in attacks {
            let refusal = self.send(*account, kind, name, request.clone(), true).await;
            assert_eq!(refusal, None, "without the guards, {account:?}: {request:?}");
        }
        self.guard(guards);
        for (account, kind, name, request, wanted) in attacks {
            eventually(&format!("{wanted:?} as the answer to {account:?}: {request:?}"), || async {
                let refusal = self.send(*account, kind, name, request.clone(), true).await?;
                assert!(refusal.contains("denied request: "), "{account:?}: {request:?}: {refusal}");
                refusal.contains(wanted).then_some(())
            })
            .await;
        }
    }

    /// Waits until the guards refuse an administrator's Peer.
    async fn is_guarded(&self) {
        eventually("the guards to be in force", || async {
            self.send(Account::Administrator, "Peer", "p", Request::Create(json!(any_peer())), true).await.map(drop)
        })
        .await;
    }

    /// A key as the controller issues it, with a condition of another controller. Returns its UID.
    async fn issued(&self, name: &str) -> String {
        let key = json!({ "apiVersion": "setupkey.dev/v1alpha1", "kind": "SetupKey", "spec": { "usageLimit": 9 } });
        self.does(Account::Administrator, "SetupKey", name, Request::Create(key)).await;
        let issued = json!({
            "observedGeneration": 1, "id": "a".repeat(20), "key": "AAAAA****", "digest": digest("a value"),
            "expires": "2027-01-01T00:00:00Z", "state": "valid", "valid": true, "usedTimes": 3, "usageLimit": 9,
            "secret": { "name": name, "key": "setup-key", "resourceVersion": "1" },
            "conditions": [condition("Ready", "True"), condition("example.com/Audited", "True")],
        });
        self.does(Account::Controller, "SetupKey", name, Request::PatchStatus(issued)).await;
        self.api(Account::Administrator, "SetupKey").await.get(name).await.unwrap().metadata.uid.unwrap()
    }
}

/// The administrator of this control plane.
async fn admin_config() -> Config {
    let kubeconfig = Kubeconfig::read_from(unguarded_plane().kubeconfig()).unwrap();
    Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap()
}

/// A client of this user.
async fn client_of(user: &str, groups: &[&str]) -> Client {
    let mut config = admin_config().await;
    config.auth_info.impersonate = Some(user.to_owned());
    let groups: Vec<_> = groups.iter().map(|group| (*group).to_owned()).collect();
    config.auth_info.impersonate_groups = Some(groups).filter(|groups| !groups.is_empty());
    Client::try_from(config).unwrap()
}

fn resource(kind: &str) -> ApiResource {
    let ours = matches!(kind, "SetupKey" | "Peer" | "Authority" | "ClusterAuthority");
    let group = if ours { ("setupkey.dev", "v1alpha1") } else { ("", "v1") };
    ApiResource::from_gvk(&GroupVersionKind::gvk(group.0, group.1, kind))
}

fn condition(kind: &str, status: &str) -> Value {
    let time = if kind == "Ready" { "2026-11-24T06:00:00Z" } else { THEIRS };
    json!({ "type": kind, "status": status, "reason": "Because", "message": "m", "lastTransitionTime": time })
}
