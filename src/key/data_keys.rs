//! The keys in a Secret's data beside the primary, which holds the setup key: the aliases, which hold it too, and the one
//! that holds the URL of the authority's agents.
//!
//! Others may keep data keys in the same Secret, and theirs are never touched. So a data key is written or removed only if it
//! is ours: it stands on record, or the API server names this operator as its manager, or it holds what the spec asks for. A
//! data key that the spec asks for, and that is none of these, is a conflict.

use std::collections::BTreeSet;

use super::{
    remote::AuthorityView,
    secret::{DataChange, DataPatch, Held, OwnedSecret},
};
use crate::api::{SecretReference, SetupKey};

/// The most aliases that are on record.
const MOST_ALIASES: usize = 8;

/// The data keys beside the primary that the spec asks for.
#[derive(Clone, Copy, Debug)]
pub struct WantedData<'a> {
    aliases: &'a [String],
    url_key: Option<&'a str>,
    /// `None` while the authority is out of reach. The data key then stays as it is.
    url: Option<&'a str>,
}

impl<'a> WantedData<'a> {
    /// Those of a key whose authority is seen like this.
    pub fn of(key: &'a SetupKey, authority: &'a AuthorityView) -> Self {
        let template = key.spec.secret.as_ref();
        Self {
            aliases: template.map_or(&[], |template| &template.aliases),
            url_key: template.and_then(|template| template.management_url_key.as_deref()),
            url: authority.reached().and_then(|reached| reached.agent_url.as_deref()),
        }
    }

    /// The content of a Secret that does not exist yet.
    pub fn in_new_secret(self) -> DataPatch {
        let aliases = self.aliases.iter().map(|name| (name.clone(), DataChange::SetupKey));
        aliases
            .chain(self.url_key.zip(self.url).map(|(name, url)| (name.to_owned(), DataChange::Url(url.to_owned()))))
            .collect()
    }

    fn is_alias(self, name: &str) -> bool {
        self.aliases.iter().any(|alias| alias == name)
    }

    fn is_url_key(self, name: &str) -> bool {
        self.url_key == Some(name)
    }

    /// Whether the Secret on record has the URL that is wanted now. A changed authority changes no generation of the key.
    pub fn has_recorded_url(self, recorded: &SecretReference) -> bool {
        self.url_key.is_none() || self.url.is_none() || recorded.management_url.as_deref() == self.url
    }
}

/// The data keys that are looked at: those that the spec asks for, those on record, and those that this operator manages. The
/// primary is none of them.
pub fn looked_at<'a>(key: &'a SetupKey, managed: &'a BTreeSet<String>) -> BTreeSet<&'a str> {
    let wanted = WantedData::of(key, &AuthorityView::Cluster);
    let recorded = recorded(key);
    let names = wanted.aliases.iter().map(String::as_str).chain(wanted.url_key);
    let recorded = recorded
        .into_iter()
        .flat_map(|recorded| recorded.aliases.iter().map(String::as_str).chain(recorded.management_url_key.as_deref()));
    let managed = managed.iter().map(String::as_str);
    names.chain(recorded).chain(managed).filter(|name| *name != key.secret_key()).collect()
}

fn recorded(key: &SetupKey) -> Option<&SecretReference> {
    key.status.as_ref()?.secret.as_ref()
}

impl OwnedSecret {
    /// The changes of data keys that go with another setup key.
    pub fn data_with_new_key(&self, key: &SetupKey, wanted: WantedData<'_>) -> DataPatch {
        let mut patch = wanted.in_new_secret();
        patch.retain(|name, _| !self.data.contains_key(name) || self.has_ours(key, wanted, name));
        let unwanted = self.data.keys().filter(|name| !wanted.is_alias(name) && !wanted.is_url_key(name));
        let unwanted = unwanted.filter(|name| self.has_ours(key, wanted, name));
        patch.extend(unwanted.map(|name| (name.clone(), DataChange::Removal)));
        patch
    }

    /// The changes that put the data keys right, while the primary stays.
    pub fn data_drift(&self, key: &SetupKey, wanted: WantedData<'_>) -> DataPatch {
        let mut patch = self.data_with_new_key(key, wanted);
        patch.retain(|name, change| match (self.data.get(name), change) {
            (Some(held), DataChange::SetupKey) => !self.is_primary(held),
            (Some(held), DataChange::Url(url)) => !held.is(Some(url)),
            (Some(_), DataChange::Removal) | (None, _) => true,
        });
        patch
    }

    /// The data keys that the spec asks for, and in which others keep something else.
    pub fn data_conflicts<'a>(&self, key: &SetupKey, wanted: WantedData<'a>) -> Vec<&'a str> {
        let url_key = wanted.url_key.filter(|_| wanted.url.is_some());
        let asked_for = wanted.aliases.iter().map(String::as_str).chain(url_key);
        asked_for.filter(|name| self.data.contains_key(*name) && !self.has_ours(key, wanted, name)).collect()
    }

    /// The aliases that are ours, for the record. An unwanted one stays there until it is removed.
    pub fn our_aliases(&self, key: &SetupKey, wanted: WantedData<'_>) -> Vec<String> {
        let before = recorded(key).map_or(&[][..], |recorded| &recorded.aliases);
        let before = before.iter().filter(|name| !wanted.is_alias(name) && !wanted.is_url_key(name));
        let ours = wanted.aliases.iter().chain(before).filter(|name| self.has_ours(key, wanted, name));
        ours.take(MOST_ALIASES).cloned().collect()
    }

    /// The data key with the URL that is ours, and the URL that was written to it, for the record.
    pub fn our_url(&self, key: &SetupKey, wanted: WantedData<'_>) -> Option<(String, Option<String>)> {
        let before = recorded(key)
            .and_then(|recorded| Some((recorded.management_url_key.as_deref()?, recorded.management_url.as_deref())));
        let names =
            wanted.url_key.into_iter().chain(before.map(|(name, _)| name).filter(|name| !wanted.is_alias(name)));
        let name = names.into_iter().find(|name| self.has_ours(key, wanted, name))?;
        let written = before.filter(|(before, _)| *before == name).and_then(|(_, url)| url);
        let holds_wanted = wanted.is_url_key(name) && self.data.get(name).is_some_and(|held| held.is(wanted.url));
        Some((name.to_owned(), if holds_wanted { wanted.url } else { written }.map(str::to_owned)))
    }

    fn is_primary(&self, held: &Held) -> bool {
        self.holds.as_ref().is_some_and(|primary| primary.digest == held.digest)
    }

    /// Whether the Secret has this data key, and it is ours.
    ///
    /// One that is wanted and on record is ours, whatever it holds now. One that is wanted no more is ours as long as it holds
    /// what was written to it: else another writer has taken it over.
    fn has_ours(&self, key: &SetupKey, wanted: WantedData<'_>, name: &str) -> bool {
        let Some(held) = self.data.get(name) else { return false };
        if self.written_by_us.data.contains(name) {
            return true;
        }
        let holds_wanted =
            wanted.is_alias(name) && self.is_primary(held) || wanted.is_url_key(name) && held.is(wanted.url);
        let is_wanted = wanted.is_alias(name) || wanted.is_url_key(name);
        let on_record = recorded(key).is_some_and(|recorded| {
            recorded.aliases.iter().any(|alias| alias == name) && (is_wanted || held.is_setup_key)
                || recorded.management_url_key.as_deref() == Some(name)
                    && (is_wanted || held.is(recorded.management_url.as_deref()))
        });
        holds_wanted || on_record
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::key::{
        KeyValue,
        freshness::Freshness,
        remote::Reached,
        secret::{Metadata, Written, WrittenByUs},
    };

    const KEY: &str = "563A1F41-DB48-43E6-B871-0EF6B9304390";
    const URL: &str = "https://netbird.example.com";

    fn key(template: serde_json::Value, recorded: serde_json::Value) -> SetupKey {
        let mut secret = json!({ "name": "office", "key": "setup-key", "resourceVersion": "1" });
        secret.as_object_mut().unwrap().extend(recorded.as_object().unwrap().clone());
        serde_json::from_value(json!({
            "apiVersion": "setupkey.dev/v1alpha1", "kind": "SetupKey", "metadata": { "name": "office" },
            "spec": { "secret": template }, "status": { "secret": secret },
        }))
        .unwrap()
    }

    fn reached(agent_url: Option<&str>) -> AuthorityView {
        AuthorityView::Reached(Reached {
            keys: Vec::new(),
            freshness: Freshness::Cached,
            allows_namespace: true,
            groups: None,
            groups_are_fresh: false,
            allowed_groups: None,
            creates_groups: false,
            agent_url: agent_url.map(Into::into),
        })
    }

    fn secret(data: &[(&str, &str)], managed: &[&str]) -> OwnedSecret {
        let held = data.iter().map(|(name, value)| ((*name).to_owned(), Held::of(value.as_bytes())));
        let managed = managed.iter().map(|name| (*name).to_owned()).collect();
        OwnedSecret {
            resource_version: "1".to_owned(),
            metadata: Metadata::default(),
            written_by_us: WrittenByUs { data: managed, ..WrittenByUs::default() },
            immutable: false,
            holds: KeyValue::parse(KEY.as_bytes()).map(|value| value.fingerprint()),
            data: held.collect(),
            belongs_to_another: false,
            written: Written::Nothing,
        }
    }

    fn drift(key: &SetupKey, authority: &AuthorityView, secret: &OwnedSecret) -> DataPatch {
        secret.data_drift(key, WantedData::of(key, authority))
    }

    fn patch(changes: &[(&str, DataChange)]) -> DataPatch {
        changes.iter().map(|(name, change)| ((*name).to_owned(), change.clone())).collect()
    }

    #[test]
    fn the_url_follows_the_authority_and_is_left_while_that_is_out_of_reach() {
        let key = key(json!({ "managementUrlKey": "URL" }), json!({ "managementUrlKey": "URL", "managementUrl": URL }));
        let moved = "https://other.example.com";
        let write = patch(&[("URL", DataChange::Url(moved.to_owned()))]);
        for (held, url, changes) in [
            (URL, Some(URL), patch(&[])),
            (URL, Some(moved), write.clone()),
            (URL, None, patch(&[])),
            ("altered", Some(moved), write),
            ("altered", None, patch(&[])),
        ] {
            assert_eq!(drift(&key, &reached(url), &secret(&[("URL", held)], &[])), changes, "{held} {url:?}");
        }
        let recorded = key.status.as_ref().unwrap().secret.as_ref().unwrap();
        let authorities = [reached(Some(URL)), reached(None), reached(Some(moved)), AuthorityView::Cluster];
        let unchanged = authorities.map(|authority| WantedData::of(&key, &authority).has_recorded_url(recorded));
        assert_eq!(unchanged, [true, true, false, true]);
    }

    #[test]
    fn a_renamed_url_key_moves_in_one_write() {
        let key = key(json!({ "managementUrlKey": "NEW" }), json!({ "managementUrlKey": "OLD", "managementUrl": URL }));
        let changes = [("OLD", DataChange::Removal), ("NEW", DataChange::Url(URL.to_owned()))];
        assert_eq!(drift(&key, &reached(Some(URL)), &secret(&[("OLD", URL)], &[])), patch(&changes));
        // The value of another writer stays.
        let left = patch(&changes[1..]);
        assert_eq!(drift(&key, &reached(Some(URL)), &secret(&[("OLD", "https://theirs.example.com")], &[])), left);
    }

    #[test]
    fn a_url_of_others_is_a_conflict_unless_it_is_the_same() {
        let key = key(json!({ "managementUrlKey": "URL" }), json!({}));
        let conflicts = |held, url| {
            let authority = reached(url);
            secret(&[("URL", held)], &[]).data_conflicts(&key, WantedData::of(&key, &authority)).len()
        };
        let theirs = "https://theirs.example.com";
        assert_eq!([conflicts(URL, Some(URL)), conflicts(theirs, Some(URL)), conflicts(theirs, None)], [0, 1, 0]);
    }

    #[test]
    fn what_we_manage_is_ours_without_a_record() {
        let key = key(json!({}), json!({}));
        let held = secret(&[("alias", KEY), ("url", URL), ("theirs", KEY)], &["alias", "url", "setup-key"]);
        let removals = patch(&[("alias", DataChange::Removal), ("url", DataChange::Removal)]);
        assert_eq!(drift(&key, &reached(Some(URL)), &held), removals);
    }

    #[test]
    fn the_primary_is_never_looked_at_as_another_data_key() {
        let key = key(json!({ "aliases": ["a"], "managementUrlKey": "u" }), json!({ "aliases": ["setup-key", "b"] }));
        let managed = ["setup-key", "c"].map(str::to_owned).into();
        assert_eq!(looked_at(&key, &managed), ["a", "b", "c", "u"].into());
    }

    #[test]
    fn the_record_names_what_is_there_and_ours() {
        let recorded = json!({ "aliases": ["a", "old"], "managementUrlKey": "url", "managementUrl": URL });
        let key = key(json!({ "aliases": ["b", "a", "theirs"], "managementUrlKey": "new" }), recorded);
        let held = secret(&[("a", "altered"), ("b", KEY), ("old", KEY), ("theirs", "t"), ("url", URL)], &[]);
        let authority = reached(Some("https://other.example.com"));
        let wanted = WantedData::of(&key, &authority);
        assert_eq!(held.our_aliases(&key, wanted), ["b", "a", "old"]);
        assert_eq!(held.our_url(&key, wanted), Some(("url".to_owned(), Some(URL.to_owned()))));
    }
}
