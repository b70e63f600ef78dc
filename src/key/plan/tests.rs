//! The planner in a world of values: one key, perhaps a Secret, and whatever may happen to them.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::{
    api::{PendingPeer, SetupKey, SetupKeyStatus, State, Timestamp, metadata::ROTATE_ANNOTATION},
    key::{
        Facts, Fingerprint, KeyValue,
        conditions::{READY, STALLED, VALID, is_ready},
        ledger::Use,
        record::{Persistence, Subject, Trouble, fits_the_record, without_record},
        remote::AuthorityView,
        secret::{Metadata, MetadataPatch, SecretView, SentKey, Written, is_owned_by, wanted_metadata},
        transition::{Cause, notices},
    },
};

/// What stands in the cluster.
#[derive(Clone)]
struct World {
    key: SetupKey,
    secret: Option<Stored>,
    clock: DateTime<Utc>,
    version: u64,
    writes: Vec<&'static str>,
    /// Peers that have joined, by the id of their key.
    joined: BTreeMap<String, i64>,
    /// Peers that exist, by name.
    peers: BTreeSet<String>,
    /// What the API server does with writes of the Secret.
    admission: Admission,
    /// Passes that have failed in a row.
    failures: u32,
}

/// What the API server does with writes of the Secret.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Admission {
    /// It stores them.
    Stores,
    /// It refuses them, as a quota, a policy or a missing right does.
    Refuses,
    /// It fails, as a webhook with nothing behind it does.
    Fails,
    /// It sets a label of the operator's and one of the spec's to values of its own.
    Relabels,
    /// It sets the label that says who manages an object.
    RelabelsManager,
    /// It puts another key into the data.
    ReplacesData,
}

const ADMISSIONS: [Admission; 6] = [
    Admission::Stores,
    Admission::Refuses,
    Admission::Fails,
    Admission::Relabels,
    Admission::RelabelsManager,
    Admission::ReplacesData,
];

/// A Secret as stored.
#[derive(Clone)]
struct Stored {
    ours: bool,
    version: u64,
    metadata: Metadata,
    holds: Option<Fingerprint>,
    immutable: bool,
    belongs_to_another: bool,
}

/// What a pass has seen so far, as the controller keeps it.
struct Seen {
    freshness: Freshness,
    secret: SecretView,
    trouble: Option<Trouble>,
    rehearsal: Option<Rehearsal>,
    counted: Option<i64>,
    abandoned: BTreeSet<Use>,
    peers_created: bool,
}

impl Seen {
    fn observed<'a>(&'a self, key: &'a SetupKey) -> Observed<'a> {
        Observed {
            key,
            stored: key,
            freshness: self.freshness,
            secret: &self.secret,
            trouble: self.trouble.as_ref(),
            rehearsal: self.rehearsal,
            counted: self.counted,
            abandoned: &self.abandoned,
            peers_created: self.peers_created,
            authority: &AuthorityView::Cluster,
            retried: false,
        }
    }
}

fn trouble(persistence: Persistence) -> Trouble {
    Trouble { with: Subject::Secret, persistence, why: "exceeded quota".to_owned() }
}

fn moment(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

fn fingerprint(seed: u64) -> Fingerprint {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    KeyValue::from_random_bytes(bytes).fingerprint()
}

fn id(seed: u64) -> KeyId {
    let mut bytes = [0; 20];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    KeyId::from_random_bytes(bytes)
}

impl World {
    /// A key that no pass has seen yet.
    fn new(spec: serde_json::Value) -> Self {
        let key = json!({
            "apiVersion": "setupkey.dev/v1alpha1", "kind": "SetupKey",
            "metadata": {
                "name": "office", "namespace": "n", "uid": "u1", "generation": 1, "resourceVersion": "1",
                "creationTimestamp": "2026-11-24T05:59:59Z",
            },
            "spec": spec,
            "status": { "observedGeneration": -1 },
        });
        Self {
            key: serde_json::from_value(key).unwrap(),
            secret: None,
            clock: moment("2026-11-24T06:00:00.5Z"),
            version: 1,
            writes: Vec::new(),
            joined: BTreeMap::new(),
            peers: BTreeSet::new(),
            admission: Admission::Stores,
            failures: 0,
        }
    }

    /// The same after a pass.
    fn settled(spec: serde_json::Value) -> Self {
        let mut world = Self::new(spec);
        world.pass();
        world.writes.clear();
        world
    }

    fn status(&self) -> &SetupKeyStatus {
        self.key.status.as_ref().unwrap()
    }

    fn says(&self, type_: &str) -> String {
        let condition = conditions::condition(self.status(), type_);
        condition.map(|condition| format!("{} {}", condition.status, condition.reason)).unwrap_or_default()
    }

    fn message(&self, type_: &str) -> &str {
        conditions::condition(self.status(), type_).map_or("", |condition| condition.message.as_str())
    }

    fn joined_with(&self, id: &str) -> i64 {
        self.joined.get(id).copied().unwrap_or_default()
    }

    /// What is counted is what has joined.
    fn counts_right(&self) -> bool {
        self.status().used_times == self.status().id.as_ref().map_or(0, |id| self.joined_with(id))
    }

    fn change_spec(&mut self, change: impl FnOnce(&mut SetupKey)) {
        change(&mut self.key);
        self.key.metadata.generation = self.key.metadata.generation.map(|generation| generation + 1);
    }

    /// What the controller's cache shows, or what it reads.
    fn look(&self) -> SecretView {
        let Some(secret) = &self.secret else { return SecretView::Absent };
        if !secret.ours {
            return SecretView::Foreign;
        }
        let status = self.status();
        let version = secret.version.to_string();
        let recorded = status.secret.as_ref().is_some_and(|recorded| recorded.resource_version == version);
        let observed = status.observed_generation == self.key.metadata.generation;
        let is_due = rotation::due(&self.key, self.clock).is_some() || !rotation::is_told(&self.key, self.clock);
        if recorded && observed && status.digest.is_some() && is_ready(&self.key) && !is_due {
            return SecretView::Unchanged;
        }
        SecretView::Owned(secret.view(Written::Nothing))
    }

    fn begin(&self) -> Seen {
        Seen {
            freshness: Freshness::Cached,
            secret: self.look(),
            trouble: None,
            rehearsal: None,
            counted: None,
            abandoned: self.key.pending().iter().map(Use::of).collect(),
            peers_created: false,
        }
    }

    /// One pass of the controller, which dies after so many writes.
    fn pass_of(&mut self, writes: usize) -> Option<Until> {
        let mut seen = self.begin();
        let before = self.writes.len();
        for steps in 0.. {
            assert!(steps < 12, "it does not settle: {:?}", self.writes);
            let step = plan(seen.observed(&self.key), self.clock);
            match step {
                Step::Wait(until) => {
                    let failed = matches!(until, Until::Retry | Until::RetryAfter(_));
                    self.failures = if failed { self.failures + 1 } else { 0 };
                    return Some(until);
                }
                Step::Confirm => seen.freshness = Freshness::Confirmed,
                Step::CountPeers(id) => seen.counted = Some(self.joined_with(id.as_str())),
                step if self.writes.len() - before == writes => {
                    drop(step);
                    return None;
                }
                step => self.perform(step, &mut seen),
            }
        }
        unreachable!()
    }

    fn pass(&mut self) -> Until {
        self.pass_of(usize::MAX).expect("it was not interrupted")
    }

    fn perform(&mut self, step: Step, seen: &mut Seen) {
        match step {
            Step::CreateSecret(issue) => {
                self.writes.push("create");
                assert!(self.secret.is_none(), "a Secret is created over another");
                self.send(seen, |world| world.store(issue, None));
            }
            Step::RehearseReplacement(_) => {
                let altered = self.admission == Admission::ReplacesData;
                seen.rehearsal = Some(if altered { Rehearsal::Altered } else { Rehearsal::Kept });
            }
            Step::ReplaceKey(issue) => {
                self.writes.push("replace");
                assert_eq!(seen.freshness, Freshness::Confirmed, "a key is replaced on the word of a cache");
                let secret = self.secret.clone().expect("a Secret to replace the key in");
                assert!(!secret.immutable, "the data of an immutable Secret is written");
                self.send(seen, |world| world.store(issue, Some(secret)));
            }
            Step::Restore(changes) => {
                self.writes.push("metadata");
                self.send(seen, |world| world.restore(changes.metadata));
            }
            Step::WriteStatus(status) => {
                self.writes.push("status");
                self.key.status = Some(*status);
                seen.freshness = Freshness::Confirmed;
            }
            Step::CreatePeers => {
                self.writes.push("peers");
                let uses = &seen.abandoned;
                let due = self.key.pending().iter().filter(|entry| uses.contains(&Use::of(entry)));
                self.peers.extend(due.map(|entry| entry.name.clone()));
                seen.peers_created = true;
            }
            Step::ClearEntries(swap) => {
                self.writes.push("clear");
                let cleared = self.key.pending().iter().filter(|entry| !swap.pending.contains(entry));
                assert!(cleared.into_iter().all(|entry| self.peers.contains(&entry.name)), "cleared without a Peer");
                self.key = swap.onto(&self.key);
            }
            Step::Confirm | Step::CountPeers(_) | Step::Wait(_) => unreachable!(),
            other => unreachable!("{other:?} for a key of the cluster"),
        }
    }

    /// Sends a write of the Secret through admission.
    fn send(&mut self, seen: &mut Seen, write: impl FnOnce(&mut Self) -> OwnedSecret) {
        match self.admission {
            Admission::Refuses => seen.trouble = Some(trouble(Persistence::Refused)),
            Admission::Fails if self.failures < 3 => seen.trouble = Some(trouble(Persistence::Passing)),
            Admission::Fails => seen.trouble = Some(trouble(Persistence::Lasting)),
            _ => {
                self.version += 1;
                seen.secret = SecretView::Owned(write(self));
            }
        }
    }

    fn store(&mut self, issue: Issue, found: Option<Stored>) -> OwnedSecret {
        let id = issue.id.unwrap_or_else(|| id(self.version));
        let wanted = wanted_metadata(&self.key, &id, issue.expires);
        let mut metadata = found.map(|found| found.metadata).unwrap_or_default();
        metadata.labels.extend(wanted.labels);
        metadata.annotations.extend(wanted.annotations);
        let sent = fingerprint(self.version);
        let altered = self.admission == Admission::ReplacesData;
        let holds = if altered { fingerprint(self.version + 1_000_000) } else { sent.clone() };
        self.relabel(&mut metadata);
        let stored = Stored {
            ours: true,
            version: self.version,
            metadata,
            holds: Some(holds),
            immutable: false,
            belongs_to_another: false,
        };
        let sent = SentKey { digest: sent.digest, id, expires: issue.expires };
        self.secret.insert(stored).view(Written::Key(sent))
    }

    fn restore(&mut self, patch: MetadataPatch) -> OwnedSecret {
        let mut secret = self.secret.take().expect("a Secret to restore");
        let before = (secret.metadata.clone(), secret.holds.clone());
        for (of, changes) in
            [(&mut secret.metadata.labels, patch.labels), (&mut secret.metadata.annotations, patch.annotations)]
        {
            of.extend(changes.into_iter().filter_map(|(key, value)| Some((key, value?))));
        }
        self.relabel(&mut secret.metadata);
        if self.admission == Admission::ReplacesData {
            secret.holds = Some(fingerprint(self.version + 1_000_000));
        }
        // The API server makes no new version of an object that a patch does not change.
        if before != (secret.metadata.clone(), secret.holds.clone()) {
            secret.version = self.version;
        }
        self.secret.insert(secret).view(Written::Restoration)
    }

    fn relabel(&self, metadata: &mut Metadata) {
        let theirs: &[&str] = match self.admission {
            Admission::Relabels => &["app.kubernetes.io/managed-by", "team"],
            Admission::RelabelsManager => &["app.kubernetes.io/managed-by"],
            _ => &[],
        };
        metadata.labels.extend(theirs.iter().map(|label| ((*label).to_owned(), "platform".to_owned())));
    }

    /// Ready says the truth: the Secret holds exactly the key on record, and carries what the spec asks for.
    fn is_consistent(&self) -> bool {
        let status = self.status();
        match &self.secret {
            Some(Stored { ours: true, holds: Some(held), metadata, version, .. }) => {
                status.digest.as_deref() == Some(held.digest.as_str())
                    && status.id.as_ref() == metadata.annotations.get("setupkey.dev/id")
                    && status.secret.as_ref().is_some_and(|secret| secret.resource_version == version.to_string())
                    && self.carries_what_the_spec_asks_for()
                    && self.says(READY) == "True Reconciled"
            }
            _ => status.digest.is_none() && status.valid == Some(false) && self.says(STALLED) == "True SecretConflict",
        }
    }

    fn carries_what_the_spec_asks_for(&self) -> bool {
        let Some(secret) = &self.secret else { return false };
        let (id, expires) = (self.status().id.as_deref().and_then(KeyId::parse), self.status().expires);
        let (Some(id), Some(expires)) = (id, expires) else { return false };
        let drift = secret.view(Written::Nothing).drift_from(&wanted_metadata(&self.key, &id, expires));
        drift.is_empty() || drift.is_cosmetic()
    }

    /// Whatever is said is true, whether the key is well or not.
    fn tells_the_truth(&self) -> Result<(), String> {
        // An error that may pass leaves the last report as it is.
        if self.admission == Admission::Fails && (1..=3).contains(&self.failures) {
            return Ok(());
        }
        let status = self.status();
        let held = self.secret.as_ref().filter(|secret| secret.ours).and_then(|secret| secret.holds.as_ref());
        let held = held.map(|held| held.digest.as_str());
        if is_ready(&self.key) && status.observed_generation == self.key.metadata.generation {
            if held.is_none() || status.digest.as_deref() != held {
                return Err(format!("Ready, and the Secret holds another key: {status:?}"));
            }
            if !self.carries_what_the_spec_asks_for() {
                return Err(format!("Ready, and the Secret does not carry what the spec asks for: {status:?}"));
            }
        }
        if status.valid == Some(true) && status.digest.as_deref() != held {
            return Err(format!("valid, and the Secret holds another key: {status:?}"));
        }
        Ok(())
    }
}

impl Stored {
    fn view(&self, written: Written) -> OwnedSecret {
        OwnedSecret {
            resource_version: self.version.to_string(),
            metadata: self.metadata.clone(),
            written_by_us: Default::default(),
            immutable: self.immutable,
            holds: self.holds.clone(),
            data: Default::default(),
            belongs_to_another: self.belongs_to_another,
            written,
        }
    }
}

#[test]
fn a_new_key_takes_two_writes_in_this_order() {
    let mut world = World::new(json!({ "expiresIn": "24h" }));
    let until = world.pass();
    assert_eq!(world.writes, ["create", "status"]);
    assert!(world.is_consistent());
    assert_eq!(world.status().expires, Some("2026-11-25T06:00:00Z".parse().unwrap()));
    assert_eq!(until, Until::Moment(world.clock + LONGEST_SLEEP));
}

#[test]
fn a_settled_key_waits_for_its_expiry_and_wakes_just_after() {
    let mut world = World::settled(json!({ "expiresIn": "24h" }));
    world.clock = moment("2026-11-25T05:59:58Z");
    assert_eq!(world.pass(), Until::Moment(moment("2026-11-25T06:00:00.001Z")));
    // Woken too early, it waits again instead of taking the timer's word.
    world.clock = moment("2026-11-25T06:00:00Z");
    assert_eq!(world.pass(), Until::Moment(moment("2026-11-25T06:00:00.001Z")));
    assert_eq!(world.writes, [""; 0]);
    world.clock = moment("2026-11-25T06:00:00.001Z");
    assert_eq!(world.pass(), Until::Moment(world.clock + LONGEST_SLEEP));
    assert_eq!(world.writes, ["status"]);
    assert_eq!(world.status().state, Some(State::Expired));
    assert_eq!(world.says(VALID), "False Expired");
    assert_eq!(world.says(READY), "True Reconciled");
}

#[test]
fn a_secret_of_an_earlier_key_of_this_name_is_foreign() {
    let world = World::settled(json!({}));
    let metadata = serde_json::from_value(json!({ "ownerReferences": [
        { "apiVersion": "setupkey.dev/v1alpha1", "kind": "SetupKey", "name": "office", "uid": "u0" },
    ]}));
    assert!(!is_owned_by(&metadata.unwrap(), &world.key));
}

#[test]
fn a_key_that_is_being_deleted_is_left_alone() {
    let mut world = World::new(json!({}));
    world.key.metadata.deletion_timestamp = Some(Timestamp::from(world.clock).into());
    assert_eq!(world.pass(), Until::Change);
    assert_eq!(world.writes, [""; 0]);
}

#[test]
fn annotations_of_a_secret_never_lengthen_a_life() {
    let mut world = World::settled(json!({ "expiresIn": "24h" }));
    world.key.status = Some(SetupKeyStatus { observed_generation: Some(-1), ..SetupKeyStatus::default() });
    let secret = world.secret.as_mut().unwrap();
    secret.metadata.annotations.insert("setupkey.dev/expires".to_owned(), "2099-01-01T00:00:00Z".to_owned());
    world.pass();
    assert_eq!(world.status().expires, Some("2026-11-25T06:00:00Z".parse().unwrap()));
    // Without the annotation, life is counted from the creation of the resource.
    world.key.status = Some(SetupKeyStatus::default());
    world.secret.as_mut().unwrap().metadata.annotations.remove("setupkey.dev/expires");
    world.pass();
    assert_eq!(world.status().expires, Some("2026-11-25T05:59:59Z".parse().unwrap()));
}

/// A settled key whose spec then asks for another label.
fn relabelled() -> World {
    let mut world = World::settled(json!({ "secret": { "labels": { "team": "a" } } }));
    world.change_spec(|key| {
        key.spec.secret.as_mut().unwrap().labels.insert("team".to_owned(), "c".to_owned());
    });
    world
}

#[test]
fn a_refusal_is_reported_for_as_long_as_it_lasts() {
    for mut world in [World::new(json!({})), relabelled()] {
        world.admission = Admission::Refuses;
        for _ in 0..3 {
            assert_eq!(world.pass(), Until::Retry);
            assert_eq!(world.says(READY), "False SecretRefused");
            assert_eq!(world.says(STALLED), "True SecretRefused");
            // A change of state does not hide it.
            world.change_spec(|key| key.spec.revoked = !key.spec.revoked);
        }
        world.admission = Admission::Stores;
        world.pass();
        assert!(world.is_consistent(), "{:?}", world.status());
        assert_eq!(world.says(STALLED), "");
    }
}

#[test]
fn an_error_is_reported_once_it_has_lasted() {
    for mut world in [World::new(json!({})), relabelled()] {
        let before = world.says(READY);
        world.admission = Admission::Fails;
        for _ in 0..3 {
            assert_eq!(world.pass(), Until::Retry);
            assert_eq!(world.says(READY), before);
            assert_ne!(world.status().observed_generation, world.key.metadata.generation);
        }
        assert_eq!(world.pass(), Until::Retry);
        assert_eq!(world.says(READY), "False SecretFailed");
        assert_eq!(world.status().observed_generation, world.key.metadata.generation);
        world.admission = Admission::Stores;
        world.pass();
        assert!(world.is_consistent(), "{:?}", world.status());
    }
}

#[test]
fn a_revocation_is_shown_while_the_secret_cannot_be_written() {
    for admission in [Admission::Refuses, Admission::Fails, Admission::Relabels, Admission::RelabelsManager] {
        let mut world = relabelled();
        world.admission = admission;
        world.change_spec(|key| key.spec.revoked = true);
        world.pass();
        assert_eq!(world.status().state, Some(State::Revoked), "{admission:?}");
        assert_eq!(world.says(VALID), "False Revoked", "{admission:?}");
    }
}

#[test]
fn a_change_of_state_is_written_before_labels() {
    let mut world = relabelled();
    world.change_spec(|key| key.spec.revoked = true);
    world.pass();
    assert_eq!(world.writes, ["status", "metadata", "status"]);
    assert!(world.is_consistent());
}

#[test]
fn a_label_that_is_not_stored_is_sent_once_and_named() {
    let mut world = World::new(json!({ "secret": { "labels": { "team": "a" } } }));
    world.admission = Admission::Relabels;
    assert_eq!(world.pass(), Until::RetryAfter(METADATA_PAUSE));
    assert_eq!(world.writes, ["create", "status"]);
    assert_eq!(world.says(READY), "False MetadataNotKept");
    assert!(world.message(READY).contains("label team"), "{}", world.message(READY));
    assert_eq!(world.status().valid, Some(true), "pods that mount the Secret hold its key");
    world.pass();
    assert_eq!(world.writes, ["create", "status", "metadata"]);
    world.admission = Admission::Stores;
    world.pass();
    assert!(world.is_consistent(), "{:?}", world.status());
}

#[test]
fn the_label_of_the_manager_keeps_no_key_from_being_ready() {
    let mut world = World::new(json!({}));
    world.admission = Admission::RelabelsManager;
    world.pass();
    assert_eq!(world.writes, ["create", "status"]);
    assert!(world.is_consistent(), "{:?}", world.status());
    assert!(world.message(READY).contains("label app.kubernetes.io/managed-by"), "{}", world.message(READY));
    // And it is not fought over.
    assert!(matches!(world.pass(), Until::Moment(_)));
    assert_eq!(world.writes, ["create", "status"]);
}

#[test]
fn a_key_that_is_replaced_on_its_way_is_never_valid() {
    let mut world = World::new(json!({ "usageLimit": 3 }));
    world.admission = Admission::ReplacesData;
    for _ in 0..3 {
        assert_eq!(world.pass(), Until::Retry);
        assert_eq!((world.status().digest.as_deref(), world.status().valid), (None, Some(false)));
        assert_eq!(world.says(READY), "False SecretAltered");
        assert_eq!(world.says(VALID), "False NotIssued");
        assert_eq!(world.writes, ["create", "status"], "the Secret is written again, which cannot help");
    }
    let id = world.status().id.clone();
    assert!(id.is_some());
    world.admission = Admission::Stores;
    world.pass();
    assert!(world.is_consistent(), "{:?}", world.status());
    assert_eq!(world.status().id, id);
}

#[test]
fn an_immutable_secret_with_another_key_says_what_to_do() {
    let mut world = World::settled(json!({}));
    let secret = world.secret.as_mut().unwrap();
    (secret.holds, secret.immutable, secret.version) = (None, true, 99);
    assert_eq!(world.pass(), Until::Retry);
    assert_eq!(world.writes, ["status"]);
    assert_eq!(world.says(READY), "False SecretRefused");
    assert!(world.message(READY).contains("immutable"), "{}", world.message(READY));
    assert!(world.message(READY).contains("Delete the Secret"), "{}", world.message(READY));
    world.secret = None;
    world.pass();
    assert!(world.is_consistent(), "{:?}", world.status());
}

#[test]
fn abandoned_entries_become_peers_before_they_leave_the_ledger() {
    let mut world = World::settled(json!({ "usageLimit": 3 }));
    world.let_happen(Happening::Commit);
    // Also while something else is wrong, and while the key is being deleted.
    let mut refused = world.clone();
    refused.admission = Admission::Refuses;
    refused.let_happen(Happening::DriftMetadata);
    let mut deleted = world.clone();
    deleted.key.metadata.deletion_timestamp = Some(Timestamp::from(world.clock).into());
    for mut world in [world, refused, deleted] {
        world.pass();
        assert_eq!(world.writes[world.writes.len() - 2..], ["peers", "clear"]);
        assert_eq!((world.key.pending().len(), world.peers.len(), world.status().used_times), (0, 1, 1));
    }
}

#[test]
fn a_lost_ledger_is_counted_before_anything_else() {
    let mut world = World::settled(json!({ "usageLimit": 3 }));
    (0..3).for_each(|_| world.let_happen(Happening::Use));
    let id = world.status().id.clone();
    world.let_happen(Happening::LoseStatus);
    // Whatever else is wrong.
    for garbled in [false, true] {
        let mut world = world.clone();
        if garbled {
            world.let_happen(Happening::GarbleData);
        }
        let step = plan(world.begin().observed(&world.key), world.clock);
        assert!(matches!(&step, Step::CountPeers(counted) if Some(counted.as_str()) == id.as_deref()), "{step:?}");
        world.pass();
        assert_eq!((world.status().used_times, world.status().state), (3, Some(State::Overused)));
    }
}

#[test]
fn a_key_on_record_elsewhere_is_replaced_under_a_new_id() {
    let mut world = World::settled(json!({}));
    let (id, digest) = (world.status().id.clone(), world.status().digest.clone());
    // As a tenant leaves it that adopts the Secret of another: nothing is on record here.
    world.key.status = Some(SetupKeyStatus { observed_generation: Some(-1), ..Default::default() });
    world.secret.as_mut().unwrap().belongs_to_another = true;
    world.joined.insert(id.clone().unwrap(), 3);
    world.pass();
    assert!(world.status().digest.is_some() && world.status().digest != digest);
    assert!(world.status().id.is_some() && world.status().id != id);
    assert_eq!(world.status().used_times, 0, "the uses of another key are counted");
    assert!(is_ready(&world.key));
}

#[test]
fn a_record_that_others_altered_is_made_again_from_the_secret_and_goes_without_one() {
    let world = World::settled(json!({}));
    let mut stored = world.key.clone();
    let status = stored.status.as_mut().unwrap();
    status.digest = Some(fingerprint(99).digest.to_string());
    status.expires = Some(moment("2099-01-01T00:00:00Z").into());
    let key = without_record(&stored, |_| false);
    let seen = world.begin();
    let written = |secret: &SecretView, counted| {
        let observed = Observed { stored: &stored, secret, counted, ..seen.observed(&key) };
        match plan(observed, world.clock) {
            Step::WriteStatus(status) => *status,
            step => panic!("{step:?}"),
        }
    };
    let found = SecretView::Owned(world.secret.as_ref().unwrap().view(Written::Nothing));
    let restored = written(&found, Some(0));
    assert_eq!(Some(&restored), world.key.status.as_ref());
    let lost = written(&SecretView::Foreign, None);
    assert_eq!((lost.digest, lost.expires, lost.valid), (None, None, Some(false)));
}

#[test]
fn a_secret_that_cannot_be_read_does_not_stop_its_key() {
    let mut world = World::settled(json!({}));
    let digest = world.status().digest.clone();
    let trouble = Some(trouble(Persistence::Refused));
    let unread = Seen { secret: SecretView::Unread, trouble, ..world.begin() };
    let Step::WriteStatus(status) = plan(unread.observed(&world.key), world.clock) else { panic!("no report") };
    assert_eq!((status.digest.clone(), status.valid), (digest, Some(true)));
    world.key.status = Some(*status);
    assert_eq!(world.says(READY), "False SecretRefused");
}

#[test]
fn peers_that_cannot_be_counted_leave_the_key_without_an_id() {
    let mut world = World::settled(json!({ "usageLimit": 3 }));
    (0..3).for_each(|_| world.let_happen(Happening::Use));
    world.let_happen(Happening::LoseStatus);
    let refused = Trouble { with: Subject::Peers, persistence: Persistence::Refused, why: "forbidden".to_owned() };
    let seen = Seen { trouble: Some(refused), ..world.begin() };
    let Step::WriteStatus(status) = plan(seen.observed(&world.key), world.clock) else { panic!("no report") };
    assert_eq!((&status.id, &status.digest, status.valid), (&None, &None, Some(false)));
    world.key.status = Some(*status);
    assert_eq!(world.says(READY), "False UsesUnknown");
    world.pass();
    assert_eq!((world.status().used_times, world.status().state), (3, Some(State::Overused)));
}

#[test]
fn each_transition_is_told_once() {
    let reasons = |world: &mut World| {
        let before = world.key.clone();
        world.pass();
        notices(&before, world.status(), Cause::SecretChanged, world.clock)
            .into_iter()
            .map(|notice| notice.reason)
            .collect::<Vec<_>>()
    };
    let mut world = World::new(json!({ "usageLimit": 1, "expiresIn": "24h" }));
    assert_eq!(reasons(&mut world), ["Issued"]);
    world.change_spec(|key| key.spec.revoked = true);
    assert_eq!(reasons(&mut world), ["Revoked"]);
    assert_eq!(reasons(&mut world), [""; 0]);
    world.change_spec(|key| key.spec.revoked = false);
    assert_eq!(reasons(&mut world), ["Unrevoked"]);
    world.let_happen(Happening::Use);
    assert_eq!(reasons(&mut world), ["Overused"]);
    world.secret = None;
    assert_eq!(reasons(&mut world), ["KeyRegenerated"]);
    world.secret.as_mut().unwrap().ours = false;
    assert_eq!(reasons(&mut world), ["SecretConflict"]);
    world.secret = None;
    assert_eq!(reasons(&mut world), ["Issued", "Overused"]);
    world.clock = moment("2027-11-25T06:00:01Z");
    assert_eq!(reasons(&mut world), ["Expired"]);
}

#[test]
fn a_rotation_takes_two_writes_and_keeps_the_replaced_key_for_a_while() {
    let mut world = World::settled(json!({ "expiresIn": "24h", "usageLimit": 3, "rotation": { "overlap": "1h" } }));
    world.let_happen(Happening::Use);
    let (old, id) = (world.held(), world.status().id.clone());
    world.ask_for_rotation();
    world.pass();
    assert_eq!(world.writes, ["replace", "status"]);
    assert!(world.is_consistent() && world.held() != old && world.status().id != id);
    assert_eq!((world.status().revision, world.status().used_times), (Some(2), 0));
    assert_eq!(world.status().expires, Some((world.clock + Duration::hours(24)).into()));
    let [previous] = world.key.previous() else { panic!("{:?}", world.status()) };
    assert_eq!((Some(&previous.id), previous.used_times, previous.usage_limit), (id.as_ref(), 1, Some(3)));
    assert_eq!(world.admitting(), [old, world.held()].into());
    // The end of the overlap costs one write, and is waited for.
    let end = previous.admits_until.moment();
    world.writes.clear();
    world.clock = end;
    assert_eq!(world.pass(), Until::Moment(end + JUST_AFTER));
    assert_eq!(world.writes, [""; 0]);
    world.clock = end + JUST_AFTER;
    world.pass();
    assert_eq!((world.writes.as_slice(), world.key.previous()), (["status"].as_slice(), [].as_slice()));
}

#[test]
fn a_key_that_was_revoked_until_its_rotation_gets_no_overlap() {
    let mut world = World::settled(json!({ "expiresIn": "24h" }));
    world.change_spec(|key| key.spec.revoked = true);
    world.pass();
    world.ask_for_rotation();
    world.change_spec(|key| key.spec.revoked = false);
    world.pass();
    assert_eq!((world.status().revision, world.key.previous()), (Some(2), [].as_slice()));
    assert_eq!(world.admitting(), [world.held()].into());
}

#[test]
fn a_rotation_that_died_between_its_writes_is_made_again() {
    let mut world = World::settled(json!({ "expiresIn": "24h" }));
    let old = world.held();
    world.ask_for_rotation();
    world.pass_of(1);
    let unrecorded = world.held();
    assert!(world.admitting().contains(&old), "the old key ends before the new one is on record");
    world.pass();
    assert_eq!(world.writes, ["replace", "replace", "status"]);
    assert!(world.is_consistent() && world.held() != unrecorded, "a value that is not on record is believed");
    assert_eq!(world.admitting(), [old, world.held()].into());
    assert_eq!(world.status().revision, Some(2));
}

#[test]
fn a_key_that_was_sent_on_the_word_of_an_old_version_comes_on_record_only_if_it_fits() {
    let mut world = World::settled(json!({ "expiresIn": "24h" }));
    let sent = |id: KeyId| SentKey { digest: fingerprint(99).digest, id, expires: world.clock.into() };
    let (same, other) = (sent(KeyId::parse(world.status().id.as_ref().unwrap()).unwrap()), sent(id(99)));
    let fits = |world: &World, sent| fits_the_record(&world.key, sent, world.clock);
    assert_eq!((fits(&world, &same), fits(&world, &other)), (true, false));
    world.ask_for_rotation();
    assert!(fits(&world, &other), "the next revision");
    assert!(fits(&World::new(json!({})), &other), "the first key");
}

#[test]
fn a_rotation_that_is_refused_leaves_the_key_as_it_is() {
    let mut world = World::settled(json!({ "expiresIn": "24h" }));
    let (old, before) = (world.held(), world.key.clone());
    world.admission = Admission::Refuses;
    world.ask_for_rotation();
    world.pass();
    assert_eq!((world.held(), world.says(READY).as_str()), (old.clone(), "False SecretRefused"));
    assert_eq!((world.admitting(), world.status().revision), ([old].into(), Some(1)));
    let told = notices(&before, world.status(), Cause::SecretChanged, world.clock);
    assert!(told.iter().any(|notice| notice.reason == "RotationFailed"), "{told:?}");
    assert!(world.status().rotate_at.is_some_and(|due| due.moment() <= world.clock), "it is overdue");
    world.admission = Admission::Stores;
    world.pass();
    assert_eq!(world.status().revision, Some(2));
}

#[test]
fn an_immutable_secret_cannot_rotate_and_says_what_to_do() {
    let mut world = World::settled(json!({ "expiresIn": "24h" }));
    world.secret.as_mut().unwrap().immutable = true;
    world.ask_for_rotation();
    world.pass();
    assert_eq!((world.writes.as_slice(), world.says(READY).as_str()), (["status"].as_slice(), "False RotationFailed"));
    assert!(world.message(READY).contains("Delete the Secret"), "{}", world.message(READY));
    world.secret = None;
    world.pass();
    world.pass();
    assert!(world.is_consistent(), "{:?}", world.status());
    assert_eq!(world.status().revision, Some(2));
}

#[test]
fn a_request_that_cannot_be_met_is_told_once_and_no_longer_than_it_stands() {
    let mut world = World::settled(json!({ "expiresIn": "24h" }));
    let mut told = |text: &str| {
        world.key.metadata.annotations = Some([(ROTATE_ANNOTATION.to_owned(), text.to_owned())].into());
        let before = world.key.clone();
        world.pass();
        let notices = notices(&before, world.status(), Cause::SecretChanged, world.clock);
        (notices.iter().map(|notice| notice.reason).collect::<Vec<_>>(), world.message(READY).contains("tomorrow"))
    };
    assert_eq!(told("tomorrow"), (vec!["RotationSkipped"], true));
    assert_eq!(told("tomorrow"), (vec![], true));
    assert_eq!(told("2026-11-24T06:00:00Z"), (vec![], false));
}

#[test]
fn an_unused_key_reads_revoked_until_it_may_go_unused_for_longer() {
    let mut world = World::settled(json!({ "expiresIn": "720h", "revokeUnusedAfter": "48h" }));
    world.clock = moment("2026-11-26T06:00:00Z");
    assert_eq!(world.pass(), Until::Moment(moment("2026-11-26T06:00:00.001Z")));
    world.clock = moment("2026-11-26T06:00:00.001Z");
    world.pass();
    assert_eq!((world.writes.as_slice(), world.says(VALID).as_str()), (["status"].as_slice(), "False Unused"));
    assert_eq!((world.status().state, world.says(READY).as_str()), (Some(State::Revoked), "True Reconciled"));
    world.change_spec(|key| key.spec.revoke_unused_after = Some(crate::api::Lifetime::hours(72)));
    world.pass();
    assert_eq!(world.says(VALID), "True Valid");
}

#[test]
fn a_skipped_rotation_is_told_once() {
    let mut world =
        World::settled(json!({ "expiresIn": "24h", "type": "one-off", "rotation": { "renewBefore": "12h" } }));
    world.let_happen(Happening::Use);
    world.pass();
    let reasons = |world: &mut World| {
        let before = world.key.clone();
        world.pass();
        let told = notices(&before, world.status(), Cause::SecretChanged, world.clock);
        told.into_iter().map(|notice| notice.reason).collect::<Vec<_>>()
    };
    world.clock = moment("2026-11-24T18:00:00Z");
    assert_eq!(reasons(&mut world), ["RotationSkipped"]);
    assert_eq!(reasons(&mut world), [""; 0]);
    assert_eq!((world.status().revision, world.status().rotate_at), (Some(1), None));
}

/// What may happen to a key between two passes.
#[derive(Clone, Copy, Debug)]
enum Happening {
    Revoke,
    Unrevoke,
    ChangeGroups,
    Use,
    DeleteSecret,
    ForeignSecret,
    TamperData,
    GarbleData,
    StealOwnership,
    DriftMetadata,
    LoseStatus,
    TimePasses,
    /// A replica commits a use, and never gets further.
    Commit,
    Admit(Admission),
    /// A person asks for a rotation.
    AskForRotation,
}

fn happening() -> impl Strategy<Value = Happening> {
    use Happening::*;
    prop_oneof![
        6 => event(),
        2 => prop::sample::select(ADMISSIONS.to_vec()).prop_map(Admit),
        1 => Just(AskForRotation),
    ]
}

/// What may happen while the API server stores what it is sent.
fn event() -> impl Strategy<Value = Happening> {
    use Happening::*;
    prop::sample::select(vec![
        Revoke,
        Unrevoke,
        ChangeGroups,
        Use,
        DeleteSecret,
        ForeignSecret,
        TamperData,
        GarbleData,
        StealOwnership,
        DriftMetadata,
        LoseStatus,
        TimePasses,
        Commit,
    ])
}

impl World {
    fn let_happen(&mut self, happening: Happening) {
        self.version += 1;
        let version = self.version;
        match happening {
            Happening::Revoke => self.change_spec(|key| key.spec.revoked = true),
            Happening::Unrevoke => self.change_spec(|key| key.spec.revoked = false),
            Happening::ChangeGroups => self.change_spec(|key| key.spec.auto_groups.push(format!("g{version}"))),
            Happening::Use => {
                let status = self.key.status.as_mut().unwrap();
                if let Some(id) = status.id.clone() {
                    status.used_times += 1;
                    *self.joined.entry(id).or_default() += 1;
                }
            }
            Happening::DeleteSecret => self.secret = None,
            Happening::ForeignSecret => {
                let metadata = Metadata::default();
                self.secret = Some(Stored {
                    ours: false,
                    version,
                    metadata,
                    holds: None,
                    immutable: false,
                    belongs_to_another: false,
                });
            }
            Happening::Commit => self.commit(),
            Happening::Admit(admission) => self.admission = admission,
            Happening::LoseStatus => {
                self.key.status = Some(SetupKeyStatus { observed_generation: Some(-1), ..SetupKeyStatus::default() });
            }
            Happening::TimePasses => self.clock += Duration::hours(7),
            Happening::AskForRotation => self.ask_for_rotation(),
            Happening::TamperData | Happening::GarbleData | Happening::StealOwnership | Happening::DriftMetadata => {
                let Some(secret) = &mut self.secret else { return };
                secret.version = version;
                match happening {
                    Happening::TamperData => secret.holds = Some(fingerprint(version)),
                    Happening::GarbleData => secret.holds = None,
                    Happening::StealOwnership => secret.ours = false,
                    _ => secret.metadata.labels.clear(),
                }
            }
        }
    }
}

impl World {
    fn ask_for_rotation(&mut self) {
        self.clock += Duration::seconds(2);
        let now = Timestamp::from(self.clock).to_string();
        self.key.metadata.annotations = Some([(ROTATE_ANNOTATION.to_owned(), now)].into());
    }

    /// The digests of the keys that admit peers now.
    fn admitting(&self) -> BTreeSet<String> {
        let facts = Facts::of(&self.key).into_iter().chain(Facts::previous(&self.key));
        let valid = facts.filter(|facts| facts.state(self.clock) == State::Valid);
        valid.map(|facts| facts.digest.to_string()).collect()
    }

    fn held(&self) -> String {
        self.secret.as_ref().and_then(|secret| secret.holds.as_ref()).expect("a key in the Secret").digest.to_string()
    }

    fn commit(&mut self) {
        let name = format!("peer-{}", self.version);
        let status = self.key.status.as_mut().unwrap();
        let Some(key_id) = status.id.clone() else { return };
        status.used_times += 1;
        *self.joined.entry(key_id.clone()).or_default() += 1;
        status.pending.push(PendingPeer {
            key_id,
            number: status.used_times,
            name,
            public_key: String::new(),
            hostname: "h".to_owned(),
            extra_dns_labels: Vec::new(),
            token_digest: String::new(),
            since: self.clock.into(),
        });
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Whatever happens, and however often the controller dies on the way: what it says is true, and once the API server
    /// stores what it is sent, it settles.
    #[test]
    fn it_always_settles_and_tells_the_truth(
        events in prop::collection::vec((happening(), prop::option::of(0..4usize)), 0..12),
        limit in 0..3,
        renew_before in prop::option::of(prop::sample::select(vec!["1h", "12h", "23h"])),
    ) {
        let mut world = World::new(json!({
            "usageLimit": limit, "expiresIn": "24h", "secret": { "labels": { "team": "a" } },
            "rotation": { "renewBefore": renew_before, "overlap": "8h" },
        }));
        for (event, dies_after) in events {
            if let Some(writes) = dies_after
                && world.pass_of(writes).is_some()
            {
                prop_assert_eq!(world.tells_the_truth(), Ok(()));
            }
            world.let_happen(event);
        }
        world.pass();
        prop_assert_eq!(world.tells_the_truth(), Ok(()));
        world.admission = Admission::Stores;
        let mut until = world.pass();
        // A key that was put right may be due for rotation at once.
        if until == Until::Moment(world.clock) {
            until = world.pass();
        }
        prop_assert!(world.is_consistent(), "{:?}", world.status());
        prop_assert!(rotation::due(&world.key, world.clock).is_none() || !is_ready(&world.key), "{:?}", world.status());
        prop_assert!(world.counts_right(), "{:?}", world.status());
        prop_assert!(world.key.pending().is_empty(), "{:?}", world.status());
        prop_assert_eq!(world.status().observed_generation, world.key.metadata.generation);
        let foreign = world.secret.as_ref().is_none_or(|secret| !secret.ours);
        prop_assert_eq!(until == Until::Retry, foreign);

        // A second look changes nothing.
        world.writes.clear();
        prop_assert_eq!(world.pass(), until);
        prop_assert_eq!(&world.writes, &[""; 0]);
    }

    /// Whatever happens to machines, labels and the clock, and wherever passes die: a replaced key admits until its end, and
    /// the key that comes instead is in the Secret by then.
    #[test]
    fn a_rotation_cuts_off_no_machine(
        steps in prop::collection::vec((0..6u8, prop::option::of(0..3usize)), 1..20),
    ) {
        let mut world = World::settled(json!({ "expiresIn": "24h", "rotation": { "renewBefore": "10h", "overlap": "5h" } }));
        // Each key that the Secret has held, and until when it must admit.
        let mut owed: BTreeMap<String, Option<DateTime<Utc>>> = [(world.held(), None)].into();
        for (step, dies_after) in steps {
            match step {
                0 => world.let_happen(Happening::AskForRotation),
                1 => world.clock += Duration::hours(3),
                2 => world.clock -= Duration::hours(1),
                3 => world.let_happen(Happening::Commit),
                4 => world.let_happen(Happening::DriftMetadata),
                _ => world.let_happen(Happening::ChangeGroups),
            }
            if let Some(writes) = dies_after {
                world.pass_of(writes);
            }
            let current = world.status().digest.clone().unwrap();
            for (digest, until) in &mut owed {
                if *digest != current && until.is_none() {
                    let previous = world.key.previous().iter().find(|previous| previous.digest == *digest);
                    let expired = world.key.previous().is_empty();
                    prop_assert!(previous.is_some() || expired, "{} is forgotten", digest);
                    *until = Some(previous.map_or(world.clock, |previous| previous.admits_until.moment()));
                }
            }
            owed.entry(current.clone()).or_insert(None);
            let (admitting, held) = (world.admitting(), world.held());
            for (digest, until) in &owed {
                let is_owed = until.is_some_and(|until| world.clock <= until) && world.key.previous().iter().any(|previous| previous.digest == *digest);
                prop_assert!(!is_owed || admitting.contains(digest), "{} ends too early", digest);
            }
            if dies_after.is_some() && world.pass_of(usize::MAX).is_some() {
                prop_assert!(world.status().digest.as_deref() == Some(world.held().as_str()), "{} was {}", world.held(), held);
                owed.entry(world.held()).or_insert(None);
            }
        }
    }

    /// A crash costs at most one write more than no crash, and ends in the same place.
    #[test]
    fn a_crash_costs_at_most_one_write(event in event(), dies_after in 0..4usize) {
        let mut smooth = World::settled(json!({ "expiresIn": "24h", "usageLimit": 2 }));
        smooth.let_happen(event);
        let mut crashed = smooth.clone();
        smooth.pass();
        crashed.pass_of(dies_after);
        crashed.pass();
        prop_assert!(crashed.writes.len() <= smooth.writes.len() + 1, "{:?} for {:?}", crashed.writes, smooth.writes);
        prop_assert!(crashed.is_consistent());
        let ends = |world: &World| (world.status().id.clone(), world.status().state, world.status().expires);
        prop_assert_eq!(ends(&crashed), ends(&smooth));
    }

    /// While the API server does not store what it is sent, no pass writes more than a few times, and the next ones write
    /// nothing but what they must try.
    #[test]
    fn trouble_costs_few_writes(event in event(), admission in prop::sample::select(ADMISSIONS[1..].to_vec())) {
        let mut world = World::settled(json!({ "expiresIn": "24h", "secret": { "labels": { "team": "a" } } }));
        world.admission = admission;
        world.let_happen(event);
        for _ in 0..5 {
            world.pass();
        }
        let before = world.writes.len();
        world.pass();
        let repeated = &world.writes[before..];
        prop_assert!(repeated.len() <= 1, "{:?} are repeated", repeated);
        prop_assert!(!repeated.contains(&"status"), "{:?}", world.status());
    }

    /// A life, once given, is never made longer.
    #[test]
    fn expiry_never_moves_later(events in prop::collection::vec(happening(), 0..12)) {
        let mut world = World::settled(json!({ "expiresIn": "24h" }));
        let (first, id) = (world.status().expires, world.status().id.clone());
        for event in events {
            world.let_happen(event);
            world.pass();
            if world.status().id == id {
                prop_assert!(world.status().expires <= first, "{:?}", event);
            }
        }
    }
}
