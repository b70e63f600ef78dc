//! The planner in a world of values: one key, perhaps a Secret, and whatever may happen to them.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::{
    api::State,
    key::{
        Fingerprint, KeyValue,
        report::{READY, STALLED, VALID},
        secret::is_owned_by,
        transition::notices,
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
}

/// A Secret as stored.
#[derive(Clone)]
struct Stored {
    ours: bool,
    version: u64,
    metadata: Metadata,
    holds: Option<Fingerprint>,
}

fn observed<'a>(key: &'a SetupKey, secret: &'a SecretView) -> Observed<'a> {
    Observed { key, secret, refusal: None, counted: None }
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
    /// A key that nobody has looked at.
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
        }
    }

    /// The same after the operator came by.
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
        let condition = self.status().conditions.iter().find(|condition| condition.type_ == type_);
        condition.map(|condition| format!("{} {}", condition.status, condition.reason)).unwrap_or_default()
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

    fn look(&self) -> SecretView {
        let Some(secret) = &self.secret else { return SecretView::Absent };
        if !secret.ours {
            return SecretView::Foreign;
        }
        let status = self.status();
        let version = secret.version.to_string();
        let recorded = status.secret.as_ref().is_some_and(|recorded| recorded.resource_version == version);
        if recorded && status.digest.is_some() && status.observed_generation == self.key.metadata.generation {
            return SecretView::AsRecorded;
        }
        SecretView::Owned(secret.view(Origin::Found))
    }

    /// One pass of the controller, which dies after so many writes.
    fn pass_of(&mut self, writes: usize) -> Option<Until> {
        let (mut view, mut counted) = (self.look(), None);
        for written in 0.. {
            let step = loop {
                match plan(Observed { counted, ..observed(&self.key, &view) }, self.clock) {
                    Step::CountPeers(id) if counted.is_none() => counted = Some(self.joined_with(id.as_str())),
                    step => break step,
                }
            };
            if let Step::Wait(until) = step {
                return Some(until);
            }
            if written == writes {
                return None;
            }
            assert!(written < 8, "it does not settle: {:?}", self.writes);
            if let Some(secret) = self.perform(step) {
                view = SecretView::Owned(secret);
            }
        }
        unreachable!()
    }

    fn pass(&mut self) -> Until {
        self.pass_of(usize::MAX).expect("it was not interrupted")
    }

    fn perform(&mut self, step: Step) -> Option<OwnedSecret> {
        self.version += 1;
        let version = self.version;
        match step {
            Step::CreateSecret(issue) => {
                self.writes.push("create");
                assert!(self.secret.is_none(), "a Secret is created over another");
                Some(self.store(issue, None))
            }
            Step::ReplaceKey { issue, resource_version } => {
                self.writes.push("replace");
                let secret = self.secret.take().expect("a Secret to replace the key in");
                assert_eq!(resource_version, secret.version.to_string());
                Some(self.store(issue, Some(secret)))
            }
            Step::RestoreMetadata { patch, resource_version } => {
                self.writes.push("metadata");
                let secret = self.secret.as_mut().expect("a Secret to restore");
                assert_eq!(resource_version, secret.version.to_string());
                secret.version = version;
                for (of, changes) in
                    [(&mut secret.metadata.labels, patch.labels), (&mut secret.metadata.annotations, patch.annotations)]
                {
                    of.extend(changes.into_iter().filter_map(|(key, value)| Some((key, value?))));
                }
                Some(secret.view(Origin::Found))
            }
            Step::WriteStatus(status) => {
                self.writes.push("status");
                self.key.status = Some(*status);
                None
            }
            Step::CountPeers(_) | Step::Wait(_) => unreachable!(),
        }
    }

    fn store(&mut self, issue: Issue, found: Option<Stored>) -> OwnedSecret {
        let id = issue.id.unwrap_or_else(|| id(self.version));
        let wanted = wanted_metadata(&self.key, &id, issue.expires);
        let mut metadata = found.map(|found| found.metadata).unwrap_or_default();
        metadata.labels.extend(wanted.labels);
        metadata.annotations.extend(wanted.annotations);
        let stored = Stored { ours: true, version: self.version, metadata, holds: Some(fingerprint(self.version)) };
        self.secret.insert(stored).view(Origin::Minted)
    }

    /// Ready says the truth: the Secret holds exactly the key on record.
    fn is_consistent(&self) -> bool {
        let status = self.status();
        match &self.secret {
            Some(Stored { ours: true, holds: Some(held), metadata, version }) => {
                status.digest.as_deref() == Some(held.digest.as_str())
                    && status.id.as_ref() == metadata.annotations.get("setupkey.dev/id")
                    && status.secret.as_ref().is_some_and(|secret| secret.resource_version == version.to_string())
                    && self.says(READY) == "True Reconciled"
            }
            _ => status.digest.is_none() && status.valid == Some(false) && self.says(STALLED) == "True SecretConflict",
        }
    }
}

impl Stored {
    fn view(&self, origin: Origin) -> OwnedSecret {
        OwnedSecret {
            resource_version: self.version.to_string(),
            metadata: self.metadata.clone(),
            written_by_us: Default::default(),
            holds: self.holds.clone(),
            origin,
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

#[test]
fn a_refusal_is_reported_and_tried_again_later() {
    let mut world = World::new(json!({}));
    let refused = Observed { refusal: Some("exceeded quota"), ..observed(&world.key, &SecretView::Absent) };
    let Step::WriteStatus(status) = plan(refused, world.clock) else { panic!("no report") };
    world.key.status = Some(*status);
    assert_eq!(world.says(READY), "False SecretRefused");
    assert_eq!(world.says(STALLED), "True SecretRefused");
    let refused = Observed { refusal: Some("exceeded quota"), ..observed(&world.key, &SecretView::Absent) };
    assert!(matches!(plan(refused, world.clock), Step::Wait(Until::Retry)));
    world.pass();
    assert!(world.is_consistent());
    assert_eq!(world.says(STALLED), "");
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
        let secret = world.look();
        let step = plan(observed(&world.key, &secret), world.clock);
        assert!(matches!(&step, Step::CountPeers(counted) if Some(counted.as_str()) == id.as_deref()), "{step:?}");
        world.pass();
        assert_eq!((world.status().used_times, world.status().state), (3, Some(State::Overused)));
    }
}

#[test]
fn a_secret_that_cannot_be_read_does_not_stop_its_key() {
    let mut world = World::settled(json!({}));
    let digest = world.status().digest.clone();
    let unread = Observed { refusal: Some("forbidden"), ..observed(&world.key, &SecretView::Unknown) };
    let Step::WriteStatus(status) = plan(unread, world.clock) else { panic!("no report") };
    assert_eq!((status.digest.clone(), status.valid), (digest, Some(true)));
    world.key.status = Some(*status);
    assert_eq!(world.says(READY), "False SecretRefused");
}

#[test]
fn each_transition_is_told_once() {
    let reasons = |world: &mut World| {
        let before = world.key.clone();
        world.pass();
        notices(&before, world.status()).into_iter().map(|notice| notice.reason).collect::<Vec<_>>()
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
}

fn happening() -> impl Strategy<Value = Happening> {
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
                self.secret = Some(Stored { ours: false, version, metadata: Metadata::default(), holds: None });
            }
            Happening::LoseStatus => {
                self.key.status = Some(SetupKeyStatus { observed_generation: Some(-1), ..SetupKeyStatus::default() });
            }
            Happening::TimePasses => self.clock += Duration::hours(7),
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Whatever happens, and however often the controller dies on the way: it settles, and what it says is true.
    #[test]
    fn it_always_settles_and_tells_the_truth(
        events in prop::collection::vec((happening(), prop::option::of(0..3usize)), 0..12),
        limit in 0..3,
    ) {
        let mut world = World::new(json!({ "usageLimit": limit, "expiresIn": "24h" }));
        for (event, dies_after) in events {
            if let Some(writes) = dies_after {
                world.pass_of(writes);
            }
            world.let_happen(event);
        }
        let until = world.pass();
        prop_assert!(world.is_consistent(), "{:?}", world.status());
        prop_assert!(world.counts_right(), "{:?}", world.status());
        prop_assert_eq!(world.status().observed_generation, world.key.metadata.generation);
        let foreign = world.secret.as_ref().is_none_or(|secret| !secret.ours);
        prop_assert_eq!(until == Until::Retry, foreign);

        // A second look changes nothing.
        world.writes.clear();
        prop_assert_eq!(world.pass(), until);
        prop_assert_eq!(&world.writes, &[""; 0]);
    }

    /// A crash costs at most one write more than no crash, and ends in the same place.
    #[test]
    fn a_crash_costs_at_most_one_write(event in happening(), dies_after in 0..4usize) {
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
