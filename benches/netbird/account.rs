//! A NetBird server with an account, and the ClusterAuthority that stands for it.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use control_plane::netbird::{Api as NetBirdApi, NetBird, Options};
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, api::PostParams};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::json;
use setupkey_operator::api::{ClusterAuthority, SetupKeySpec};

use crate::{
    cluster::{Cluster, key_spec},
    operator::Operator,
};

/// How often the operator lists the keys. The shortest that is allowed.
pub const INTERVAL: Duration = Duration::from_secs(30);
/// The groups of all keys. See [`key_spec`].
pub const GROUPS: [&str; 2] = ["office", "printers"];

const NAME: &str = "netbird";
/// How long the operator may take to reach NetBird.
const PATIENCE: Duration = Duration::from_secs(30);

pub struct Account {
    server: NetBird,
    api: NetBirdApi,
    /// Of a service user with the role admin.
    pub token: SecretString,
    /// The ids of [`GROUPS`].
    pub groups: Vec<String>,
}

impl Account {
    /// Starts NetBird, and tells the operator of it.
    pub async fn create(cluster: &Cluster) -> anyhow::Result<Self> {
        let server = NetBird::start(Options::default()).map_err(|error| anyhow::anyhow!(error.sentence()))?;
        let token = server.tokens().admin.clone();
        let api = server.api(&server.tokens().owner);
        let mut groups = Vec::new();
        for group in GROUPS {
            groups.push(api.create_group(group).await.id);
        }
        let secret: Secret = serde_json::from_value(json!({
            "metadata": { "name": NAME }, "stringData": { "NB_API_KEY": token.expose_secret() },
        }))?;
        let secrets: Api<Secret> = Api::namespaced(cluster.admin.clone(), "setupkey-system");
        secrets.create(&PostParams::default(), &secret).await.context("could not create the Secret with the token")?;
        let authority: ClusterAuthority = serde_json::from_value(json!({
            "apiVersion": "setupkey.dev/v1alpha1", "kind": "ClusterAuthority", "metadata": { "name": NAME },
            "spec": { "namespaceSelector": {}, "netbird": {
                "url": server.url(), "tokenSecretRef": { "name": NAME }, "interval": format!("{}s", INTERVAL.as_secs()),
            } },
        }))?;
        let authorities: Api<ClusterAuthority> = Api::all(cluster.admin.clone());
        authorities
            .create(&PostParams::default(), &authority)
            .await
            .context("could not create the ClusterAuthority")?;
        Ok(Self { server, api, token, groups })
    }

    pub fn url(&self) -> String {
        self.server.url()
    }

    /// The spec of all keys.
    pub fn spec() -> SetupKeySpec {
        let reference = json!({ "kind": "ClusterAuthority", "name": NAME });
        SetupKeySpec { authority_ref: serde_json::from_value(reference).ok(), ..key_spec(50) }
    }

    /// How many keys there are.
    pub async fn count(&self) -> usize {
        self.api.keys().await.len()
    }

    /// Starts the operator and waits until it has reached NetBird.
    pub async fn operator(&self, cluster: &Cluster) -> anyhow::Result<Operator> {
        let mut operator = Operator::spawn_with(cluster, &["--allow-insecure-authorities"])?;
        operator.ready().await?;
        operator.leads().await?;
        let (up, begun) = (format!("setupkey_authority_up{{authority=\"ClusterAuthority/{NAME}\"}} 1"), Instant::now());
        while !operator.metrics()?.contains(&up) {
            ensure!(begun.elapsed() < PATIENCE, "the operator has not reached NetBird within {PATIENCE:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(operator)
    }
}
