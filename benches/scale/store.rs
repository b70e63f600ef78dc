//! etcd, over its JSON gateway.

use anyhow::{Context as _, ensure};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::cluster::Cluster;

/// etcd takes as many operations in one transaction.
pub const OPERATIONS: usize = 128;

/// A client of the store below the API server.
pub struct Store {
    url: String,
    client: Client<HttpConnector, Full<Bytes>>,
}

/// A key of etcd and its value.
#[derive(Serialize)]
pub struct Put {
    #[serde(serialize_with = "as_base64")]
    pub key: String,
    #[serde(serialize_with = "as_base64")]
    pub value: Vec<u8>,
}

/// What etcd says about its database, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// The file.
    pub file: f64,
    /// The part of it that is in use.
    pub in_use: f64,
    /// What the file may grow to, etcd's `--quota-backend-bytes`.
    pub quota: f64,
}

impl Store {
    pub fn of(cluster: &Cluster) -> Self {
        Self { url: cluster.store_url(), client: Client::builder(TokioExecutor::new()).build_http() }
    }

    /// The value of one key.
    pub async fn get(&self, key: &str) -> anyhow::Result<Vec<u8>> {
        let answer: Range = self.call("kv/range", &json!({ "key": BASE64_STANDARD.encode(key) })).await?;
        let found = answer.kvs.first().with_context(|| format!("etcd has no {key}"))?;
        BASE64_STANDARD.decode(&found.value).context("a value is not base64")
    }

    /// The revision of the last change.
    pub async fn revision(&self) -> anyhow::Result<u64> {
        let status: Status = self.call("maintenance/status", &json!({})).await?;
        status.header.revision()
    }

    /// Puts all of them in one transaction, and returns its revision, which is the `resourceVersion` of each of them.
    pub async fn put(&self, puts: &[Put]) -> anyhow::Result<u64> {
        ensure!(puts.len() <= OPERATIONS, "one transaction takes {OPERATIONS} operations");
        let operations: Vec<_> = puts.iter().map(|put| Operation { request_put: put }).collect();
        let answer: Answer = self.call("kv/txn", &Transaction { success: operations }).await?;
        answer.header.revision()
    }

    pub async fn size(&self) -> anyhow::Result<Size> {
        let status: Status = self.call("maintenance/status", &json!({})).await?;
        let bytes = |text: &str| text.parse::<f64>().with_context(|| format!("{text:?} is no number of bytes"));
        Ok(Size {
            file: bytes(&status.db_size)?,
            in_use: bytes(&status.db_size_in_use)?,
            quota: bytes(&status.db_size_quota)?,
        })
    }

    async fn call<T: DeserializeOwned>(&self, method: &str, body: &impl Serialize) -> anyhow::Result<T> {
        let request = http::Request::post(format!("{}/v3/{method}", self.url))
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(Full::from(serde_json::to_vec(body)?))?;
        let answer = self.client.request(request).await.with_context(|| format!("could not ask etcd for {method}"))?;
        let status = answer.status();
        let body = answer.into_body().collect().await?.to_bytes();
        ensure!(status.is_success(), "etcd answered {method} with {status}: {}", String::from_utf8_lossy(&body));
        serde_json::from_slice(&body).with_context(|| format!("etcd answered {method} with something unknown"))
    }
}

#[derive(Serialize)]
struct Transaction<'a> {
    success: Vec<Operation<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Operation<'a> {
    request_put: &'a Put,
}

#[derive(Deserialize)]
struct Answer {
    header: Header,
}

/// Numbers of 64 bits are texts in the gateway's JSON.
#[derive(Deserialize)]
struct Header {
    revision: String,
}

impl Header {
    fn revision(&self) -> anyhow::Result<u64> {
        self.revision.parse().with_context(|| format!("{:?} is no revision", self.revision))
    }
}

#[derive(Deserialize)]
struct Range {
    #[serde(default)]
    kvs: Vec<Found>,
}

#[derive(Deserialize)]
struct Found {
    value: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    header: Header,
    db_size: String,
    db_size_in_use: String,
    db_size_quota: String,
}

fn as_base64<S: serde::Serializer>(bytes: impl AsRef<[u8]>, serializer: S) -> Result<S::Ok, S::Error> {
    Value::String(BASE64_STANDARD.encode(bytes)).serialize(serializer)
}
