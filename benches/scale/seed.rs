//! A hundred thousand settled keys without a hundred thousand creations.
//!
//! The API server would need minutes for three writes each. So the operator issues one key, as ever, and the bytes that
//! the API server has stored for it are copied: the SetupKey, which is JSON, and its Secret, which is protobuf. Each copy
//! gets its own name, namespace, UIDs, id, value, digest and mask. All of them have the same lengths in every key, so no
//! length in the protobuf changes. The version of the Secret in the status is the revision of the transaction that stores
//! the Secret.

use anyhow::{Context as _, ensure};
use chrono::Utc;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, ResourceExt as _};
use setupkey_operator::{
    api::{SetupKey, State, Timestamp},
    key::{Digest, KeyId, KeyValue},
};

use crate::{
    Bench,
    cluster::{key_name, key_spec},
    observer::Observer,
    operator::Operator,
    store::{OPERATIONS, Put},
};

/// Namespaces of the copies.
const NAMESPACES: usize = 100;
/// The namespace of the first key. Its name is as long as those of the copies.
const TEMPLATE: &str = "template";
/// The data key of the value.
const DATA_KEY: &str = "setup-key";

/// Leaves all keys settled, and returns a watch that has seen them. They expire at this moment.
pub async fn seed(bench: &Bench, moment: Timestamp) -> anyhow::Result<Observer> {
    let (cluster, keys) = (&bench.cluster, bench.keys);
    let namespaces = NAMESPACES.min(keys);
    for number in 0..namespaces {
        cluster.create_namespace(&namespace(number)).await?;
    }
    cluster.create_namespace(TEMPLATE).await?;
    let template = Template::issue(bench).await?;
    cluster.delete_namespace(TEMPLATE).await?;
    bench.say("copying the first key");
    for first in (0..keys).step_by(OPERATIONS) {
        let copies: Vec<_> = (first..keys.min(first + OPERATIONS)).map(|number| Copy::new(number, moment)).collect();
        store(bench, &template, &copies).await?;
    }
    check(bench, moment).await
}

fn namespace(number: usize) -> String {
    format!("scale-{number:02}")
}

/// SetupKeys first: the garbage collector deletes a Secret without its owner.
async fn store(bench: &Bench, template: &Template, copies: &[Copy]) -> anyhow::Result<()> {
    loop {
        let secrets_at = bench.store.revision().await? + 2;
        let keys = copies.iter().map(|copy| copy.key(template, secrets_at)).collect::<anyhow::Result<Vec<_>>>()?;
        let secrets = copies.iter().map(|copy| copy.secret(template)).collect::<anyhow::Result<Vec<_>>>()?;
        bench.store.put(&keys).await?;
        // Another write may have come in between, such as that of a Lease.
        if bench.store.put(&secrets).await? == secrets_at {
            return Ok(());
        }
    }
}

/// What the operator and the API server have made of the first key.
struct Template {
    key: Vec<u8>,
    secret: Vec<u8>,
    identity: Identity,
    version: String,
}

/// What differs between two keys. Each part has a fixed length.
struct Identity {
    name: String,
    namespace: String,
    uid: String,
    secret_uid: String,
    id: String,
    value: KeyValue,
    expires: String,
}

struct Copy(Identity);

impl Template {
    async fn issue(bench: &Bench) -> anyhow::Result<Self> {
        let (cluster, name) = (&bench.cluster, key_name(0));
        let mut operator = Operator::start(cluster).await?;
        let observer = Observer::start(cluster.keys(TEMPLATE)).await?;
        cluster.create_keys(TEMPLATE, 1, &key_spec(50)).await?;
        let limit = std::time::Duration::from_secs(60);
        observer.until("Ready", 1, &mut operator.process, limit, |seen| seen.ready.is_some()).await?;
        operator.process.end().await?;

        let key = cluster.keys(TEMPLATE).get(&name).await.context("could not read the first SetupKey")?;
        let secrets: Api<Secret> = Api::namespaced(cluster.admin.clone(), TEMPLATE);
        let secret = secrets.get(&name).await.context("could not read the Secret of the first SetupKey")?;
        let status = key.status.clone().context("the first SetupKey has no status")?;
        let value = secret.data.as_ref().and_then(|data| data.get(DATA_KEY)).context("its Secret has no key")?;
        let identity = Identity {
            name: name.clone(),
            namespace: TEMPLATE.to_owned(),
            uid: key.uid().context("the first SetupKey has no UID")?,
            secret_uid: secret.uid().context("its Secret has no UID")?,
            id: status.id.context("the first SetupKey has no id")?,
            value: KeyValue::parse(&value.0).context("its Secret holds something else than a key")?,
            expires: status.expires.context("the first SetupKey does not expire")?.to_string(),
        };
        Ok(Self {
            key: bench.store.get(&key_path(TEMPLATE, &name)).await?,
            secret: bench.store.get(&secret_path(TEMPLATE, &name)).await?,
            identity,
            version: status.secret.context("the status names no Secret")?.resource_version,
        })
    }
}

impl Copy {
    fn new(number: usize, expires: Timestamp) -> Self {
        let uid = || uuid::Builder::from_random_bytes(rand::random()).into_uuid().to_string();
        let id: [u8; 20] = std::array::from_fn(|_| rand::random());
        Self(Identity {
            name: key_name(number),
            namespace: namespace(number % NAMESPACES),
            uid: uid(),
            secret_uid: uid(),
            id: KeyId::from_random_bytes(id).as_str().to_owned(),
            value: KeyValue::from_random_bytes(rand::random()),
            expires: expires.to_string(),
        })
    }

    fn key(&self, template: &Template, secrets_at: u64) -> anyhow::Result<Put> {
        let (from, to) = (&template.identity, &self.0);
        let (old, new) = (from.value.fingerprint(), to.value.fingerprint());
        let mut value = template.key.clone();
        for (from, to) in [
            (from.uid.as_str(), to.uid.as_str()),
            (&from.id, &to.id),
            (old.digest.as_str(), new.digest.as_str()),
            (&old.mask, &new.mask),
            (&from.expires, &to.expires),
            (&from.namespace, &to.namespace),
            (&from.name, &to.name),
        ] {
            replace(&mut value, from, to)?;
        }
        // JSON has no lengths, so this one may have more digits.
        let version = |version: &str| format!("\"resourceVersion\":\"{version}\"");
        let text = String::from_utf8(value).context("the SetupKey is not stored as JSON")?;
        let (from, to) = (version(&template.version), version(&secrets_at.to_string()));
        ensure!(text.contains(&from), "the stored SetupKey does not have {from}");
        Ok(Put { key: key_path(&self.0.namespace, &self.0.name), value: text.replace(&from, &to).into_bytes() })
    }

    fn secret(&self, template: &Template) -> anyhow::Result<Put> {
        let (from, to) = (&template.identity, &self.0);
        let mut value = template.secret.clone();
        for (from, to) in [
            (from.uid.as_str(), to.uid.as_str()),
            (&from.secret_uid, &to.secret_uid),
            (&from.id, &to.id),
            (from.value.expose(), to.value.expose()),
            (&from.expires, &to.expires),
            (&from.namespace, &to.namespace),
            (&from.name, &to.name),
        ] {
            replace(&mut value, from, to)?;
        }
        Ok(Put { key: secret_path(&self.0.namespace, &self.0.name), value })
    }
}

/// Replaces each occurrence. There must be one, and the lengths must be equal.
fn replace(bytes: &mut [u8], from: &str, to: &str) -> anyhow::Result<()> {
    // No value is named: one of them is a key.
    ensure!(from.len() == to.len(), "a part of the first key and that of a copy differ in length");
    let mut found = false;
    let mut at = 0;
    while at + from.len() <= bytes.len() {
        if &bytes[at..at + from.len()] == from.as_bytes() {
            bytes[at..at + from.len()].copy_from_slice(to.as_bytes());
            (found, at) = (true, at + from.len());
        } else {
            at += 1;
        }
    }
    ensure!(found, "a part of the first key is not in what the API server has stored");
    Ok(())
}

fn key_path(namespace: &str, name: &str) -> String {
    format!("/registry/setupkey.dev/setupkeys/{namespace}/{name}")
}

fn secret_path(namespace: &str, name: &str) -> String {
    format!("/registry/secrets/{namespace}/{name}")
}

/// Whether the API server shows what was stored: all keys, and of some that the Secret belongs to the key.
async fn check(bench: &Bench, moment: Timestamp) -> anyhow::Result<Observer> {
    bench.say("listing all keys");
    let observer = Observer::start(Api::all(bench.cluster.admin.clone())).await?;
    let valid = |seen: &&crate::observer::Seen| seen.state == Some(State::Valid) && seen.expires == Some(moment);
    let count = observer.keys().values().filter(valid).count();
    ensure!(count == bench.keys, "the API server shows {count} of {} keys", bench.keys);
    for number in [0, bench.keys / 2, bench.keys - 1] {
        let (namespace, name) = (namespace(number % NAMESPACES), key_name(number));
        let key: SetupKey = bench.cluster.keys(&namespace).get(&name).await?;
        let secrets: Api<Secret> = Api::namespaced(bench.cluster.admin.clone(), &namespace);
        let secret = secrets.get(&name).await.with_context(|| format!("could not read the Secret of {name}"))?;
        let value = secret.data.as_ref().and_then(|data| data.get(DATA_KEY)).context("a Secret has no key")?;
        let status = key.status.as_ref().with_context(|| format!("{name} has no status"))?;
        let recorded = status.secret.as_ref().map(|secret| &secret.resource_version);
        ensure!(
            status.digest.as_deref() == Some(Digest::of(&value.0).as_str())
                && recorded == secret.metadata.resource_version.as_ref()
                && secret.owner_references().iter().any(|owner| Some(&owner.uid) == key.metadata.uid.as_ref()),
            "SetupKey {name} and its Secret do not belong together"
        );
    }
    ensure!(Utc::now() < moment.moment(), "the keys expired while they were stored");
    Ok(observer)
}
