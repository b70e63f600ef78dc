//! Keys that are already issued when a test begins.

use base64::{Engine, prelude::BASE64_STANDARD};
use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use setupkey_operator::api::SetupKey;
use sha2::{Digest, Sha256};

use super::Cluster;

/// A random value in the format of a setup key.
pub fn any_key() -> String {
    let mut bytes: [u8; 16] = rand::random();
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02X}")).collect();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// The digest by which a key is recognised.
pub fn digest(value: &str) -> String {
    BASE64_STANDARD.encode(Sha256::digest(value))
}

impl Cluster {
    /// The key `office` as a controller has issued it. That controller does not run any more.
    pub async fn issued(&self, spec: &str) -> SetupKey {
        let operator = self.start_operator().await;
        self.apply("office", spec);
        self.ready("office").await;
        operator.stop().await;
        self.keys().get("office").await.expect("the SetupKey")
    }

    /// A key as a controller would issue it, written without one: for tests that need many keys for a short time.
    pub async fn issue(&self, name: &str, spec: Value) -> String {
        self.issue_until(name, spec, Utc::now() + chrono::Duration::hours(24)).await
    }

    /// Like [`Self::issue`], with this expiry.
    pub async fn issue_until(&self, name: &str, spec: Value, expires: DateTime<Utc>) -> String {
        let value = any_key();
        self.apply_quickly(name, spec).await;
        let id = format!("{:020}", rand::random::<u32>());
        let status = json!({
            "id": id, "digest": digest(&value), "expires": expires.format("%Y-%m-%dT%H:%M:%SZ").to_string(),
            "usedTimes": 0,
        });
        self.patch_status(name, status).await;
        value
    }
}
