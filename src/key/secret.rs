//! The Secret of a key: what is known of it, and which labels and annotations it should carry. Its data keys are in
//! [`data_keys`](super::data_keys).

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, ObjectMeta};

use super::{Digest, Fingerprint, KeyId, KeyValue};
use crate::api::{
    SetupKey, Timestamp,
    metadata::{EXPIRES_ANNOTATION, ID_ANNOTATION, KEY_LABEL, MANAGED_BY_LABEL, MANAGER, allowed_on_secret},
};

/// What is known of the Secret of a key.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "a pass has one, and no collection holds any")]
pub enum SecretView {
    /// It could not be read.
    Unread,
    /// There is none.
    Absent,
    /// A Secret of that name exists, and this `SetupKey` does not own it. Its data was not read.
    Foreign,
    /// A Secret of that name exists without an owner, with the marks of a key of this name. A restored backup leaves it
    /// like that. It is treated as foreign, but the condition says how to keep its key.
    Orphaned,
    /// It is ours, and still the version that was compared with this generation of the spec and found equal.
    Unchanged,
    /// It is ours and was read.
    Owned(OwnedSecret),
}

/// A Secret with an owner reference that carries the UID of the `SetupKey`.
#[derive(Clone, Debug)]
pub struct OwnedSecret {
    /// The version that was read.
    pub resource_version: String,
    /// Its labels and annotations.
    pub metadata: Metadata,
    /// The labels, annotations and data keys that this operator put there.
    pub written_by_us: WrittenByUs,
    /// Whether its data can never change again.
    pub immutable: bool,
    /// The key in it, or `None` when the data key is missing or holds something else.
    pub holds: Option<Fingerprint>,
    /// What the other data keys hold, as far as they matter ([`looked_at`](super::data_keys::looked_at)).
    pub data: BTreeMap<String, Held>,
    /// Whether another `SetupKey` has precedence for the key in it ([`has_precedence`](super::claim::has_precedence)).
    pub belongs_to_another: bool,
    /// What this pass has written to it.
    pub written: Written,
}

/// What a data key holds, without the value itself.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Held {
    /// Its digest.
    pub(super) digest: Digest,
    /// Whether it is a setup key as we write them.
    pub(super) is_setup_key: bool,
}

impl Held {
    /// These bytes.
    pub fn of(data: &[u8]) -> Self {
        Self { digest: Digest::of(data), is_setup_key: KeyValue::parse(data).is_some() }
    }

    /// Whether it is this text.
    pub(super) fn is(&self, text: Option<&str>) -> bool {
        text.is_some_and(|text| self.digest == Digest::of(text))
    }
}

/// Changes of data keys beside the primary, by their names.
pub type DataPatch = BTreeMap<String, DataChange>;

/// What becomes of a data key.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum DataChange {
    /// It holds the setup key.
    SetupKey,
    /// It holds this URL.
    Url(String),
    /// It is removed.
    Removal,
}

/// What the present pass has written to a Secret. All else in an [`OwnedSecret`] is what the API server has stored, which
/// admission may have changed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Written {
    /// Nothing: it was read.
    Nothing,
    /// The wanted labels, annotations and further data keys.
    Restoration,
    /// The same, and this new key.
    Key(SentKey),
}

/// A key that was sent.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SentKey {
    /// Its digest.
    pub digest: Digest,
    /// Its public id.
    pub id: KeyId,
    /// When it expires.
    pub expires: Timestamp,
}

/// Labels and annotations.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Metadata {
    /// Labels by key.
    pub labels: BTreeMap<String, String>,
    /// Annotations by key.
    pub annotations: BTreeMap<String, String>,
}

/// The keys of labels, annotations and data that the API server recorded as this operator's.
#[derive(Clone, Debug, Default)]
pub struct WrittenByUs {
    /// Keys of labels.
    pub labels: BTreeSet<String>,
    /// Keys of annotations.
    pub annotations: BTreeSet<String>,
    /// Data keys, the primary among them.
    pub data: BTreeSet<String>,
}

/// What puts our Secret right, while the key in it stays.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Restoration {
    /// Changes of labels and annotations.
    pub metadata: MetadataPatch,
    /// Changes of data keys.
    pub data: DataPatch,
}

/// A change of labels and annotations: each key with its value, or `None` to remove it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct MetadataPatch {
    /// Changes of labels.
    pub labels: BTreeMap<String, Option<String>>,
    /// Changes of annotations.
    pub annotations: BTreeMap<String, Option<String>>,
}

/// Whether the object is owned by this very `SetupKey`, not by an earlier one of the same name.
pub fn is_owned_by(metadata: &ObjectMeta, key: &SetupKey) -> bool {
    let uid = key.metadata.uid.as_deref().unwrap_or_default();
    metadata.owner_references.iter().flatten().any(|owner| owner.uid == uid)
}

impl SecretView {
    /// The view of a Secret that this `SetupKey` does not own, from its metadata.
    pub fn not_owned(metadata: &ObjectMeta, key: &SetupKey) -> Self {
        let name = key.metadata.name.as_deref().unwrap_or_default();
        if is_orphan_of(metadata, name) { Self::Orphaned } else { Self::Foreign }
    }
}

/// Whether a Secret has no owner and the marks of a key of this name.
pub fn is_orphan_of(metadata: &ObjectMeta, key: &str) -> bool {
    let label = metadata.labels.as_ref().and_then(|labels| labels.get(KEY_LABEL));
    let id = metadata.annotations.as_ref().and_then(|annotations| KeyId::parse(annotations.get(ID_ANNOTATION)?));
    let owned = metadata.owner_references.as_ref().is_some_and(|owners| !owners.is_empty());
    !owned && id.is_some() && label.is_some_and(|label| label == key)
}

/// The labels and annotations that the Secret of a key should carry: the operator's own, and those of the spec that are
/// allowed on a Secret.
pub fn wanted_metadata(key: &SetupKey, id: &KeyId, expires: Timestamp) -> Metadata {
    let allowed = |asked: Option<&BTreeMap<String, String>>| -> BTreeMap<String, String> {
        let pairs = asked.into_iter().flatten().filter(|(key, _)| allowed_on_secret(key));
        pairs.map(|(key, value)| (key.clone(), value.clone())).collect()
    };
    let template = key.spec.secret.as_ref();
    let mut labels = allowed(template.map(|template| &template.labels));
    labels.insert(MANAGED_BY_LABEL.to_owned(), MANAGER.to_owned());
    labels.insert(KEY_LABEL.to_owned(), key.metadata.name.clone().unwrap_or_default());
    let mut annotations = allowed(template.map(|template| &template.annotations));
    annotations.insert(ID_ANNOTATION.to_owned(), id.to_string());
    annotations.insert(EXPIRES_ANNOTATION.to_owned(), expires.to_string());
    Metadata { labels, annotations }
}

impl OwnedSecret {
    /// The id that the Secret says it belongs to.
    pub fn id(&self) -> Option<KeyId> {
        KeyId::parse(self.metadata.annotations.get(ID_ANNOTATION)?)
    }

    /// The expiry that the Secret says its key has.
    pub fn expires(&self) -> Option<Timestamp> {
        self.metadata.annotations.get(EXPIRES_ANNOTATION)?.parse().ok()
    }

    /// Whether the API server has stored another key than the one that this pass has sent.
    pub fn was_altered(&self) -> bool {
        match &self.written {
            Written::Key(_) => self.sent_and_stored().is_none(),
            Written::Nothing | Written::Restoration => false,
        }
    }

    /// The key that this pass has sent, if that is what the API server has stored.
    pub fn sent_and_stored(&self) -> Option<&SentKey> {
        let Written::Key(sent) = &self.written else { return None };
        self.holds.as_ref().filter(|found| found.digest == sent.digest).map(|_| sent)
    }

    /// The changes that restore the wanted labels and annotations and remove those of ours that are no longer wanted. Those
    /// of others stay.
    pub fn drift_from(&self, wanted: &Metadata) -> MetadataPatch {
        MetadataPatch {
            labels: drift(&self.metadata.labels, &wanted.labels, &self.written_by_us.labels),
            annotations: drift(&self.metadata.annotations, &wanted.annotations, &self.written_by_us.annotations),
        }
    }
}

fn drift(
    found: &BTreeMap<String, String>,
    wanted: &BTreeMap<String, String>,
    ours: &BTreeSet<String>,
) -> BTreeMap<String, Option<String>> {
    let missing = wanted.iter().filter(|(key, value)| found.get(*key) != Some(value));
    let missing = missing.map(|(key, value)| (key.clone(), Some(value.clone())));
    let unwanted = ours.iter().filter(|key| found.contains_key(*key) && !wanted.contains_key(*key));
    missing.chain(unwanted.map(|key| (key.clone(), None))).collect()
}

impl Restoration {
    /// Whether there is nothing to change.
    pub fn is_empty(&self) -> bool {
        self.metadata.is_empty() && self.data.is_empty()
    }

    /// What it changes, for people: `label team`, `annotation example.com/owner`, `data key NB_SETUP_KEY`.
    pub fn names(&self) -> Vec<String> {
        fn named<T>(what: &str, changes: &BTreeMap<String, T>) -> Vec<String> {
            changes.keys().map(|key| format!("{what} {key}")).collect()
        }
        let MetadataPatch { labels, annotations } = &self.metadata;
        [named("label", labels), named("annotation", annotations), named("data key", &self.data)].concat()
    }

    /// Whether it changes nothing that a part of the product, or a consumer of the key, reads.
    pub fn is_cosmetic(&self) -> bool {
        self.metadata.is_cosmetic() && self.data.is_empty()
    }
}

impl MetadataPatch {
    /// Whether there is nothing to change.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.annotations.is_empty()
    }

    /// Whether it changes nothing but the label that tells tools who manages the Secret. No part of the product reads it.
    pub fn is_cosmetic(&self) -> bool {
        self.annotations.is_empty() && self.labels.keys().all(|key| key == MANAGED_BY_LABEL)
    }
}

impl WrittenByUs {
    /// Reads the API server's managedFields, which name the manager of each field. No other record of our earlier writes is
    /// kept, so none can disagree with what was really written.
    pub fn from_managed_fields(entries: &[ManagedFieldsEntry]) -> Self {
        let ours = entries.iter().filter(|entry| entry.manager.as_deref() == Some(MANAGER));
        let mut written = Self::default();
        for fields in ours.filter_map(|entry| entry.fields_v1.as_ref()) {
            let keys = |of: &serde_json::Value| {
                let keys = of.as_object().into_iter().flatten();
                keys.filter_map(|(key, _)| key.strip_prefix("f:")).map(str::to_owned).collect::<Vec<_>>()
            };
            written.labels.extend(keys(&fields.0["f:metadata"]["f:labels"]));
            written.annotations.extend(keys(&fields.0["f:metadata"]["f:annotations"]));
            written.data.extend(keys(&fields.0["f:data"]));
        }
        written
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn ours_comes_back_ours_of_old_goes_and_others_stay() {
        let secret = OwnedSecret {
            resource_version: "1".to_owned(),
            metadata: Metadata { labels: map(&[("team", "b"), ("old", "x"), ("theirs", "y")]), annotations: map(&[]) },
            written_by_us: WrittenByUs { labels: ["team", "old"].map(str::to_owned).into(), ..Default::default() },
            immutable: false,
            holds: None,
            data: BTreeMap::new(),
            belongs_to_another: false,
            written: Written::Nothing,
        };
        let wanted = Metadata { labels: map(&[("team", "a")]), annotations: map(&[("note", "n")]) };
        let patch = secret.drift_from(&wanted);
        assert_eq!(patch.labels, [("team".to_owned(), Some("a".to_owned())), ("old".to_owned(), None)].into());
        assert_eq!(patch.annotations, [("note".to_owned(), Some("n".to_owned()))].into());
    }

    #[test]
    fn only_the_unowned_secret_of_a_key_of_this_name_is_orphaned() {
        let key: SetupKey = serde_json::from_value(serde_json::json!({
            "apiVersion": "setupkey.dev/v1alpha1", "kind": "SetupKey",
            "metadata": { "name": "office", "uid": "new" }, "spec": {},
        }))
        .unwrap();
        let owner = serde_json::json!([{ "apiVersion": "v1", "kind": "ConfigMap", "name": "office", "uid": "other" }]);
        let id = "0123456789abcdefghij";
        for (label, id, owners, orphaned) in [
            ("office", id, serde_json::json!([]), true),
            ("cameras", id, serde_json::json!([]), false),
            ("office", "no id", serde_json::json!([]), false),
            ("office", id, owner, false),
        ] {
            let metadata = serde_json::json!({
                "labels": { KEY_LABEL: label }, "annotations": { ID_ANNOTATION: id }, "ownerReferences": owners,
            });
            let view = SecretView::not_owned(&serde_json::from_value(metadata.clone()).unwrap(), &key);
            assert_eq!(matches!(view, SecretView::Orphaned), orphaned, "{metadata}");
        }
        assert!(matches!(SecretView::not_owned(&ObjectMeta::default(), &key), SecretView::Foreign));
    }

    #[test]
    fn managed_fields_tell_what_we_wrote() {
        let entries: Vec<ManagedFieldsEntry> = serde_json::from_value(serde_json::json!([
            {
                "manager": "setupkey-operator",
                "fieldsV1": {
                    "f:metadata": { "f:labels": { ".": {}, "f:team": {} } },
                    "f:data": { ".": {}, "f:setup-key": {} },
                },
            },
            {
                "manager": "kubectl-patch",
                "fieldsV1": { "f:metadata": { "f:labels": { "f:theirs": {} } }, "f:data": { "f:theirs": {} } },
            },
        ]))
        .unwrap();
        let written = WrittenByUs::from_managed_fields(&entries);
        assert_eq!(written.labels, ["team".to_owned()].into());
        assert!(written.annotations.is_empty());
        assert_eq!(written.data, ["setup-key".to_owned()].into());
    }
}
