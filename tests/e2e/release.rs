//! The operator, as the chart installs it.

use std::collections::BTreeSet;

use k8s_openapi::api::{apps::v1::Deployment, coordination::v1::Lease, core::v1::Pod};
use kube::{Api, ResourceExt};

use crate::cluster::{Cluster, all, eventually, repository, said, variable};

/// The release in a cluster. There may be none yet.
pub struct Release<'a> {
    cluster: &'a Cluster,
    pub namespace: String,
}

impl<'a> Release<'a> {
    pub const NAME: &'static str = "setupkey-operator";
    pub const SELECTOR: &'static str = "app.kubernetes.io/name=setupkey-operator";

    pub fn of(cluster: &'a Cluster) -> Self {
        Self { cluster, namespace: cluster.name("operator") }
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

    /// The image in the place of the chart's own, if one is given.
    fn image(&self) -> Option<String> {
        variable("E2E_IMAGE")
    }

    fn helm(&self, what: &str, image: Option<String>) {
        let mut command = self.cluster.helm();
        command.args(["--namespace", &self.namespace, what, Self::NAME]);
        command.arg(repository().join("charts/setupkey-operator")).args(["--wait", "--timeout", "3m"]);
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

    pub async fn pods(&self) -> Vec<Pod> {
        self.api::<Pod>().list(&all().labels(Self::SELECTOR)).await.expect("pods").items
    }

    pub async fn deployment(&self) -> Deployment {
        self.api().get(Self::NAME).await.expect("the Deployment")
    }

    /// Waits until all replicas of the present template, and no other pod, are there and ready.
    pub async fn settled(&self) {
        eventually("the operator's two replicas to be available", || async {
            let deployment = self.api::<Deployment>().get(Self::NAME).await.ok()?;
            let status = deployment.status?;
            let numbers = [status.replicas, status.updated_replicas, status.ready_replicas, status.available_replicas];
            let observed = status.observed_generation == deployment.metadata.generation;
            let pods = self.api::<Pod>().list(&all().labels(Self::SELECTOR)).await.ok()?;
            (observed && numbers == [Some(2); 4] && pods.items.len() == 2).then_some(())
        })
        .await;
    }

    /// Waits until a pod that is there leads, and it is none of these. Returns the Lease and the pod.
    pub async fn leader_other_than(&self, gone: &BTreeSet<String>) -> (Lease, Pod) {
        eventually("a pod to lead", || async {
            let lease = self.api::<Lease>().get(Self::NAME).await.ok()?;
            let holder = lease.spec.as_ref()?.holder_identity.clone().filter(|holder| !gone.contains(holder))?;
            let pods = self.api::<Pod>().list(&all().labels(Self::SELECTOR)).await.ok()?;
            // The identity is the pod's name and what tells its processes apart.
            let leader = pods.items.into_iter().find(|pod| holder.starts_with(&format!("{}_", pod.name_any())))?;
            Some((lease, leader))
        })
        .await
    }

    pub async fn leader(&self) -> (Lease, Pod) {
        self.leader_other_than(&BTreeSet::new()).await
    }

    /// The logs of all pods of the operator.
    pub fn logs(&self) -> String {
        let logs = ["logs", "--selector", Self::SELECTOR, "--tail=-1", "--prefix"];
        let output = self.cluster.kubectl().args(["--namespace", &self.namespace]).args(logs).output();
        said(output.expect("kubectl runs")).expect("logs")
    }
}
