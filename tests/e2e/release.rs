//! The operator as the chart installs it.

use std::collections::BTreeSet;

use chrono::Duration;
use k8s_openapi::api::{
    apps::v1::Deployment,
    coordination::v1::Lease,
    core::v1::{Pod, Secret},
};
use kube::{Api, ResourceExt, api::PostParams};
use serde_json::json;

use crate::cluster::{Cluster, UNGUARDED, all, eventually, repository, said, variable};

/// The release in a cluster. It may not exist yet.
pub struct Release<'a> {
    cluster: &'a Cluster,
    pub namespace: String,
}

impl<'a> Release<'a> {
    pub const NAME: &'static str = "setupkey-operator";
    /// The pods of all components.
    pub const SELECTOR: &'static str = "app.kubernetes.io/name=setupkey-operator";
    pub const CONTROLLER: &'static str =
        "app.kubernetes.io/name=setupkey-operator,app.kubernetes.io/component=controller";
    pub const ENROLLMENT: &'static str =
        "app.kubernetes.io/name=setupkey-operator,app.kubernetes.io/component=enrollment";
    /// The Deployments with their replicas.
    const DEPLOYMENTS: [(&'static str, i32); 3] =
        [(Self::NAME, 2), ("setupkey-operator-enrollment", 3), ("setupkey-operator-api", 2)];
    /// How long a peer may go unseen: the shortest time that is allowed.
    pub const PEER_LIFETIME: Duration = Duration::minutes(1);

    pub fn of(cluster: &'a Cluster) -> Self {
        Self { cluster, namespace: cluster.name("operator") }
    }

    /// The name by which pods reach the enrollment service. Its certificate has this name.
    pub fn enrollment_host(&self) -> String {
        format!("{}-enrollment.{}.svc", Self::NAME, self.namespace)
    }

    /// Stores a certificate where the chart looks for it.
    pub async fn certify(&self) {
        let (certificate, key) = self.cluster.authority.certify(&[&self.enrollment_host()]);
        let secret = json!({
            "metadata": { "name": "enrollment-tls" },
            "type": "kubernetes.io/tls",
            "stringData": { "tls.crt": certificate, "tls.key": key },
        });
        let secret = serde_json::from_value(secret).expect("a Secret");
        self.api::<Secret>().create(&PostParams::default(), &secret).await.expect("a created Secret");
    }

    pub fn install(&self) {
        self.helm("install", self.image());
    }

    pub fn upgrade(&self, image: &str) {
        self.helm("upgrade", Some(image.to_owned()));
    }

    pub fn uninstall(&self) {
        let uninstall = ["--namespace", &self.namespace, "uninstall", Self::NAME, "--wait"];
        said(self.cluster.helm().args(uninstall).output().expect("helm runs")).expect("an uninstalled release");
    }

    /// The image that replaces the chart's own, if one is given.
    fn image(&self) -> Option<String> {
        variable("E2E_IMAGE")
    }

    fn helm(&self, what: &str, image: Option<String>) {
        let mut command = self.cluster.helm();
        command.args(["--namespace", &self.namespace, what, Self::NAME]);
        command.arg(repository().join("charts/setupkey-operator")).args(["--wait", "--timeout", "3m"]);
        let lifetime = format!("peers.lifetime={}m", Self::PEER_LIFETIME.num_minutes());
        let exempt = format!("policies.guards.exempt[0].kind=User,policies.guards.exempt[0].name={UNGUARDED}");
        let set = [
            "enrollment.enabled=true",
            "enrollment.tls.secretName=enrollment-tls",
            "api.enabled=true",
            &lifetime,
            &exempt,
        ];
        command.args(set.iter().flat_map(|value| ["--set", value]));
        if let Some(image) = image {
            // The last colon begins the tag, unless it begins a port.
            let (name, tag) =
                image.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')).expect("an image with a tag");
            command.args(["--set", &format!("image.repository={name}"), "--set-string", &format!("image.tag={tag}")]);
        }
        said(command.output().expect("helm runs")).unwrap_or_else(|error| panic!("helm {what} failed: {error}"));
    }

    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.cluster.client.clone(), &self.namespace)
    }

    pub async fn pods(&self, selector: &str) -> Vec<Pod> {
        self.api::<Pod>().list(&all().labels(selector)).await.expect("pods").items
    }

    pub async fn deployment(&self) -> Deployment {
        self.api().get(Self::NAME).await.expect("the Deployment")
    }

    /// Waits until all replicas of the present templates are ready, and no other pods exist.
    pub async fn settled(&self) {
        eventually("all replicas of the release to be available", || async {
            for (name, replicas) in Self::DEPLOYMENTS {
                let deployment = self.api::<Deployment>().get(name).await.ok()?;
                let status = deployment.status?;
                let numbers =
                    [status.replicas, status.updated_replicas, status.ready_replicas, status.available_replicas];
                let observed = status.observed_generation == deployment.metadata.generation;
                (observed && numbers == [Some(replicas); 4]).then_some(())?;
            }
            let pods = self.api::<Pod>().list(&all().labels(Self::SELECTOR)).await.ok()?;
            let wanted: i32 = Self::DEPLOYMENTS.iter().map(|(_, replicas)| replicas).sum();
            (i32::try_from(pods.items.len()) == Ok(wanted)).then_some(())
        })
        .await;
    }

    /// Waits until an existing pod leads that is none of these. Returns the Lease and the pod.
    pub async fn leader_other_than(&self, gone: &BTreeSet<String>) -> (Lease, Pod) {
        eventually("a pod to lead", || async {
            let lease = self.api::<Lease>().get(Self::NAME).await.ok()?;
            let holder = lease.spec.as_ref()?.holder_identity.clone().filter(|holder| !gone.contains(holder))?;
            let pods = self.api::<Pod>().list(&all().labels(Self::CONTROLLER)).await.ok()?;
            // The identity is the name of the pod, and a suffix for its process.
            let leader = pods.items.into_iter().find(|pod| holder.starts_with(&format!("{}_", pod.name_any())))?;
            Some((lease, leader))
        })
        .await
    }

    pub async fn leader(&self) -> (Lease, Pod) {
        self.leader_other_than(&BTreeSet::new()).await
    }

    /// The logs of all pods of the release.
    pub fn logs(&self) -> String {
        let logs = ["logs", "--selector", Self::SELECTOR, "--tail=-1", "--prefix"];
        let output = self.cluster.kubectl().args(["--namespace", &self.namespace]).args(logs).output();
        said(output.expect("kubectl runs")).expect("logs")
    }
}
