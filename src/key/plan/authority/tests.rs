//! The planner in a world of values: one key, perhaps a Secret, and its keys at an authority.

use std::sync::Arc;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::{
    api::{Lifetime, SetupKeyStatus, State, Timestamp, metadata::ROTATE_ANNOTATION},
    key::{
        Fingerprint, KeyValue,
        conditions::VALID,
        plan::plan,
        record::{Persistence, Trouble},
        remote::{Group, RemoteKey, mark_of},
        secret::{Metadata, OwnedSecret, SentKey, Written, wanted_metadata},
    },
};

const UID: &str = "1b9d6bcd-bbfd-4b2d-9b5d-ab8dfbbd4bed";
const NONE_ABANDONED: std::collections::BTreeSet<crate::key::ledger::Use> = std::collections::BTreeSet::new();

/// What stands in the cluster and at the authority.
#[derive(Clone)]
struct World {
    key: SetupKey,
    /// The Secret: its labels and annotations, and the value that it holds.
    secret: Option<(Metadata, Fingerprint)>,
    there: Vec<(RemoteKey, Fingerprint)>,
    gone: bool,
    clock: DateTime<Utc>,
    made: u8,
    writes: Vec<&'static str>,
    /// Whether the API server refuses writes of the Secret.
    refuses: bool,
    is_deleted: bool,
}

/// What a pass has seen so far.
struct Seen {
    freshness: Freshness,
    confirmed: bool,
    rehearsal: Option<Rehearsal>,
    trouble: Option<Trouble>,
    secret: SecretView,
}

fn fingerprint(seed: u8) -> Fingerprint {
    KeyValue::from_random_bytes([seed; 16]).fingerprint()
}

impl World {
    fn new(spec: serde_json::Value) -> Self {
        let mut whole = json!({ "authorityRef": { "name": "netbird" }, "expiresIn": "24h" });
        whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        let key = serde_json::from_value(json!({
            "apiVersion": "setupkey.dev/v1alpha1", "kind": "SetupKey",
            "metadata": {
                "name": "office", "namespace": "n", "uid": UID, "generation": 1, "resourceVersion": "1",
                "creationTimestamp": "2026-11-24T05:59:59Z",
            },
            "spec": whole, "status": { "observedGeneration": -1 },
        }))
        .unwrap();
        Self {
            key,
            secret: None,
            there: Vec::new(),
            gone: false,
            clock: "2026-11-24T06:00:00.5Z".parse().unwrap(),
            made: 0,
            writes: Vec::new(),
            refuses: false,
            is_deleted: false,
        }
    }

    fn look(&self) -> SecretView {
        let Some((metadata, holds)) = self.secret.clone() else { return SecretView::Absent };
        SecretView::Owned(self.owned(metadata, holds, Written::Nothing))
    }

    fn owned(&self, metadata: Metadata, holds: Fingerprint, written: Written) -> OwnedSecret {
        OwnedSecret {
            resource_version: "1".to_owned(),
            metadata,
            written_by_us: Default::default(),
            immutable: false,
            holds: Some(holds),
            data: Default::default(),
            belongs_to_another: false,
            written,
        }
    }

    fn authority(&self, seen: &Seen) -> AuthorityView {
        if self.gone {
            return AuthorityView::OutOfReach(OutOfReach::NotFound);
        }
        let group = |name: &str| Group { id: GroupId(format!("id of {name}")), name: name.to_owned() };
        AuthorityView::Reached(Reached {
            keys: self.there.iter().map(|(there, _)| there.clone()).collect(),
            freshness: if seen.confirmed { Freshness::Confirmed } else { Freshness::Cached },
            allows_namespace: true,
            groups: Some(Arc::new([group("a"), group("b")].into_iter().collect())),
            groups_are_fresh: true,
            allowed_groups: None,
            creates_groups: false,
            agent_url: None,
        })
    }

    /// One pass, which dies after so many writes. False if it died.
    fn pass_of(&mut self, writes: usize) -> bool {
        let mut seen = Seen {
            freshness: Freshness::Cached,
            confirmed: false,
            rehearsal: None,
            trouble: None,
            secret: self.look(),
        };
        let before = self.writes.len();
        for _ in 0..20 {
            if self.is_deleted && !has_finalizer(&self.key) {
                return true;
            }
            let authority = self.authority(&seen);
            let observed = Observed {
                key: &self.key,
                stored: &self.key,
                freshness: seen.freshness,
                authority: &authority,
                secret: &seen.secret,
                trouble: seen.trouble.as_ref(),
                rehearsal: seen.rehearsal,
                counted: None,
                abandoned: &NONE_ABANDONED,
                peers_created: false,
                retried: false,
            };
            match plan(observed, self.clock) {
                Step::Wait(_) => return true,
                Step::Confirm => seen.freshness = Freshness::Confirmed,
                Step::ConfirmThere(_) => (seen.confirmed, seen.freshness) = (true, Freshness::Cached),
                Step::RehearseSecret => {
                    seen.rehearsal = Some(Rehearsal::Kept);
                    if self.refuses {
                        seen.trouble = Some(refused());
                    }
                }
                _ if self.writes.len() - before >= writes => return false,
                step => self.perform(step, &mut seen),
            }
        }
        panic!("it does not settle: {:?}", self.writes);
    }

    fn pass(&mut self) {
        assert!(self.pass_of(usize::MAX));
    }

    fn perform(&mut self, step: Step, seen: &mut Seen) {
        match step {
            Step::AddFinalizer => {
                self.writes.push("finalizer");
                self.key.metadata.finalizers = Some(vec![AUTHORITY_FINALIZER.to_owned()]);
                seen.freshness = Freshness::Confirmed;
            }
            Step::RemoveFinalizer(_) => {
                self.writes.push("release");
                self.key.metadata.finalizers = None;
            }
            Step::IssueThere(new) => {
                assert_eq!(seen.freshness, Freshness::Confirmed, "a key is issued on the word of a cache");
                assert!(has_finalizer(&self.key), "a key is issued that a deletion would leave behind");
                self.writes.push("create");
                self.made += 1;
                let id = KeyId::from_random_bytes([self.made; 20]);
                let expires = Timestamp::from(self.clock).plus_seconds(new.expires_in.unsigned_abs());
                let holds = fingerprint(self.made);
                let there = RemoteKey {
                    id: id.clone(),
                    owner: UID.to_owned(),
                    revision: mark_of(&new.name).expect("a mark").revision,
                    mask: holds.mask.clone(),
                    revoked: false,
                    used_times: 0,
                    usage_limit: (new.usage_limit > 0).then_some(new.usage_limit),
                    last_used: None,
                    expires: Some(expires),
                    groups: new.groups,
                };
                self.there.push((there, holds.clone()));
                if self.refuses {
                    self.there.pop();
                    seen.trouble = Some(refused());
                    return;
                }
                self.writes.push("secret");
                let metadata = wanted_metadata(&self.key, &id, expires);
                self.secret = Some((metadata.clone(), holds.clone()));
                let sent = Written::Key(SentKey { digest: holds.digest.clone(), id, expires });
                seen.secret = SecretView::Owned(self.owned(metadata, holds, sent));
            }
            Step::UpdateThere { id, revoked, groups } => {
                self.writes.push("update");
                let (there, _) = self.there.iter_mut().find(|(there, _)| there.id == id).expect("a key to update");
                there.revoked |= revoked;
                there.groups = groups.into_iter().collect();
                seen.freshness = Freshness::Cached;
            }
            Step::DeleteThere(id) => {
                assert_eq!(seen.freshness, Freshness::Confirmed, "a key is deleted on the word of a cache");
                self.writes.push("delete");
                self.there.retain(|(there, _)| there.id != id);
                seen.freshness = Freshness::Cached;
            }
            Step::WriteStatus(status) => {
                self.writes.push("status");
                self.key.status = Some(*status);
                seen.freshness = Freshness::Confirmed;
            }
            Step::Restore(changes) => {
                self.writes.push("metadata");
                let (metadata, holds) = self.secret.as_mut().expect("a Secret to restore");
                for (key, value) in changes.metadata.annotations {
                    metadata.annotations.insert(key, value.expect("nothing of ours is unwanted"));
                }
                let (metadata, holds) = (metadata.clone(), holds.clone());
                seen.secret = SecretView::Owned(self.owned(metadata, holds, Written::Restoration));
            }
            other => unreachable!("{other:?}"),
        }
    }

    fn status(&self) -> &SetupKeyStatus {
        self.key.status.as_ref().unwrap()
    }

    fn valid(&self) -> &str {
        reason_of(self.status(), VALID).unwrap_or_default()
    }

    fn change_spec(&mut self, change: impl FnOnce(&mut SetupKey)) {
        change(&mut self.key);
        self.key.metadata.generation = self.key.metadata.generation.map(|generation| generation + 1);
    }

    fn use_it(&mut self, times: i64) {
        for (there, _) in &mut self.there {
            let left = there.usage_limit.map_or(times, |limit| limit - there.used_times);
            if !there.revoked {
                there.used_times += times.min(left);
            }
        }
    }

    fn uses(&self) -> i64 {
        self.there.iter().map(|(there, _)| there.used_times).sum()
    }
}

fn refused() -> Trouble {
    Trouble { with: Subject::Secret, persistence: Persistence::Refused, why: "exceeded quota".to_owned() }
}

fn issued(spec: serde_json::Value) -> World {
    let mut world = World::new(spec);
    world.pass();
    world.writes.clear();
    world
}

#[test]
fn a_new_key_takes_three_writes_here_and_one_there() {
    let mut world = World::new(json!({ "autoGroups": ["b", "a"], "usageLimit": 3 }));
    world.pass();
    assert_eq!(world.writes, ["finalizer", "create", "secret", "status"]);
    let (there, _) = &world.there[0];
    assert_eq!(there.groups, ["id of a", "id of b"].map(|id| GroupId(id.to_owned())));
    assert_eq!((there.usage_limit, world.status().state), (Some(3), Some(State::Valid)));
    world.writes.clear();
    world.pass();
    assert_eq!(world.writes, <[&str; 0]>::default(), "a settled key is written");
}

#[test]
fn a_lost_value_is_replaced_only_once_nobody_joins_with_it_any_more() {
    let mut world = issued(json!({ "usageLimit": 3 }));
    world.use_it(2);
    world.secret = None;
    world.pass();
    assert_eq!(world.writes, ["status", "update", "create", "secret", "status", "delete"]);
    assert_eq!((world.there.len(), world.there[0].0.usage_limit, world.status().used_times), (1, Some(1), 2));
}

#[test]
fn a_revocation_is_reported_once_the_authority_has_taken_it_and_taken_back_by_another_key() {
    let mut world = issued(json!({}));
    world.change_spec(|key| key.spec.revoked = true);
    world.pass();
    assert_eq!((world.writes.as_slice(), world.valid()), (["update", "status"].as_slice(), "Revoked"));
    world.writes.clear();
    world.change_spec(|key| key.spec.revoked = false);
    world.pass();
    assert_eq!(world.writes, ["create", "secret", "status", "delete"]);
    assert_eq!((world.valid(), world.there.len()), ("Valid", 1));
}

#[test]
fn what_is_revoked_or_deleted_there_stays_that_way() {
    for (deleted, reason) in [(true, "DeletedAtAuthority"), (false, "RevokedAtAuthority")] {
        let mut world = issued(json!({}));
        if deleted {
            world.there.clear();
        } else {
            world.there[0].0.revoked = true;
        }
        for _ in 0..3 {
            world.pass();
            world.secret = None;
        }
        assert_eq!((world.valid(), world.made), (reason, 1));
        assert!(is_ready(&world.key));
    }
}

#[test]
fn a_refused_secret_costs_one_key() {
    let mut world = World::new(json!({}));
    world.refuses = true;
    for _ in 0..5 {
        world.pass();
    }
    assert_eq!((world.made, world.there.len()), (1, 0));
    world.refuses = false;
    world.pass();
    assert_eq!((world.made, world.there.len(), world.valid()), (2, 1, "Valid"));
}

impl World {
    fn ask_for_rotation(&mut self) {
        self.clock += chrono::Duration::seconds(2);
        let now = Timestamp::from(self.clock).to_string();
        self.key.metadata.annotations = Some([(ROTATE_ANNOTATION.to_owned(), now)].into());
    }

    fn ids(&self) -> Vec<String> {
        self.there.iter().map(|(there, _)| there.id.to_string()).collect()
    }
}

#[test]
fn a_rotation_takes_two_writes_here_and_one_there_and_a_deletion_in_the_end() {
    let mut world = issued(json!({ "usageLimit": 3, "rotation": { "overlap": "1h" } }));
    world.use_it(2);
    let old = world.status().id.clone();
    world.ask_for_rotation();
    world.pass();
    assert_eq!(world.writes, ["create", "secret", "status"]);
    assert_eq!((world.there.len(), world.there[1].0.usage_limit, world.there[1].0.revision), (2, Some(3), 2));
    assert_eq!((world.status().used_times, world.status().revision, world.valid()), (0, Some(2), "Valid"));
    let previous = world.key.previous().to_vec();
    assert_eq!((previous.len(), Some(&previous[0].id), previous[0].used_times), (1, old.as_ref(), 2));
    assert_ne!(Some(&previous[0].digest), world.status().digest.as_ref());
    // Both admit, and are counted apart.
    world.use_it(1);
    world.pass();
    assert_eq!((world.status().used_times, world.key.previous()[0].used_times), (1, 3));
    world.writes.clear();
    world.clock = previous[0].admits_until.moment();
    world.pass();
    assert_eq!(world.writes, [""; 0]);
    world.clock += chrono::Duration::milliseconds(1);
    world.pass();
    assert_eq!((world.writes.as_slice(), world.there.len()), (["delete", "status"].as_slice(), 1));
    assert_eq!((world.key.previous(), world.status().id.as_deref()), ([].as_slice(), Some(world.ids()[0].as_str())));
}

#[test]
fn a_rotation_without_overlap_deletes_the_replaced_key_after_it_is_on_record() {
    let mut world = issued(json!({ "rotation": { "overlap": "0s" } }));
    world.ask_for_rotation();
    world.pass();
    assert_eq!(world.writes, ["create", "secret", "status", "delete"]);
    assert_eq!((world.there.len(), world.key.previous().len()), (1, 0));
}

#[test]
fn a_revocation_ends_the_replaced_keys_for_good() {
    let mut world = issued(json!({}));
    world.ask_for_rotation();
    world.pass();
    world.writes.clear();
    world.change_spec(|key| key.spec.revoked = true);
    world.pass();
    assert_eq!(world.writes, ["update", "delete", "status"]);
    assert_eq!((world.there.len(), world.key.previous().len(), world.valid()), (1, 0, "Revoked"));
}

#[test]
fn what_was_deleted_or_revoked_there_is_rotated_on_request_only() {
    for deleted in [true, false] {
        let mut world = issued(json!({ "rotation": { "renewBefore": "12h" } }));
        if deleted {
            world.there.clear();
        } else {
            world.there[0].0.revoked = true;
        }
        world.pass();
        world.clock += chrono::Duration::hours(13);
        world.pass();
        assert_eq!((world.made, world.status().rotate_at), (1, None));
        world.ask_for_rotation();
        world.pass();
        assert_eq!((world.valid(), world.there.len(), world.status().revision), ("Valid", 1, Some(2)));
        assert_eq!(world.key.previous(), [], "a dead key has no overlap");
    }
}

#[test]
fn a_request_for_a_revoked_key_begins_a_revision_once_it_is_not_revoked_any_more() {
    let mut world = issued(json!({ "usageLimit": 3 }));
    world.use_it(2);
    world.change_spec(|key| key.spec.revoked = true);
    world.ask_for_rotation();
    world.pass();
    assert_eq!(world.made, 1);
    world.change_spec(|key| key.spec.revoked = false);
    world.pass();
    assert_eq!((world.there.len(), world.there[0].0.usage_limit), (1, Some(3)), "all of the limit");
    assert_eq!((world.status().revision, world.key.previous().len()), (Some(2), 0));
}

#[test]
fn an_unused_key_is_revoked_there_and_another_is_issued_when_it_may_go_unused_for_longer() {
    let mut world = issued(json!({ "expiresIn": "720h", "revokeUnusedAfter": "48h" }));
    world.clock += chrono::Duration::hours(47);
    world.pass();
    assert_eq!(world.writes, [""; 0]);
    world.clock += chrono::Duration::hours(2);
    world.pass();
    assert_eq!((world.writes.as_slice(), world.valid()), (["update", "status"].as_slice(), "Unused"));
    assert_eq!(world.status().state, Some(State::Revoked));
    world.writes.clear();
    world.pass();
    assert_eq!(world.writes, [""; 0]);
    let (expires, id) = (world.status().expires, world.status().id.clone());
    world.change_spec(|key| key.spec.revoke_unused_after = None);
    world.pass();
    assert_eq!((world.valid(), world.there.len(), world.status().revision), ("Valid", 1, Some(1)));
    assert!(world.status().id != id && world.status().expires <= expires);
}

#[test]
fn an_unused_key_takes_the_replaced_ones_with_it() {
    let mut world =
        issued(json!({ "expiresIn": "72h", "rotation": { "renewBefore": "26h" }, "revokeUnusedAfter": "48h" }));
    world.clock += chrono::Duration::hours(47);
    world.pass();
    assert_eq!((world.there.len(), world.key.previous().len(), world.valid()), (2, 1, "Valid"));
    world.clock += chrono::Duration::hours(2);
    world.pass();
    assert_eq!((world.there.len(), world.key.previous().len(), world.valid()), (1, 0, "Unused"));
}

#[test]
fn a_key_that_was_used_lately_is_not_unused() {
    let mut world = issued(json!({ "expiresIn": "720h", "revokeUnusedAfter": "48h" }));
    world.there[0].0.used_times = 1;
    world.there[0].0.last_used = Some((world.clock + chrono::Duration::hours(40)).into());
    world.clock += chrono::Duration::hours(80);
    world.pass();
    assert_eq!(world.valid(), "Valid");
    world.clock += chrono::Duration::hours(9);
    world.pass();
    assert_eq!(world.valid(), "Unused");
}

/// Things that happen to a key.
#[derive(Clone, Copy, Debug)]
enum Happening {
    Pass(usize),
    Use(i64),
    LoseSecret,
    AlterSecret,
    LoseStatus,
    Revoke(bool),
    RevokeThere,
    DeleteThere,
    ChangeGroups,
    Refuse(bool),
    /// A call whose answer was lost has created a key.
    LeaveOver,
    Later(i64),
    AskForRotation,
    Overlap(i64),
}

/// The same, with rotations.
fn rotating() -> impl Strategy<Value = Happening> {
    prop_oneof![
        4 => happening(),
        2 => Just(Happening::AskForRotation),
        1 => (0..9i64).prop_map(Happening::Overlap),
    ]
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        4 => (0..7usize).prop_map(Happening::Pass),
        2 => (1..3i64).prop_map(Happening::Use),
        2 => Just(Happening::LoseSecret),
        1 => Just(Happening::AlterSecret),
        1 => Just(Happening::LoseStatus),
        2 => any::<bool>().prop_map(Happening::Revoke),
        1 => Just(Happening::RevokeThere),
        1 => Just(Happening::DeleteThere),
        1 => Just(Happening::ChangeGroups),
        1 => any::<bool>().prop_map(Happening::Refuse),
        1 => Just(Happening::LeaveOver),
        1 => (1..10i64).prop_map(Happening::Later),
    ]
}

impl World {
    fn is_altered(&self) -> bool {
        let is_known = |holds: &Fingerprint| self.there.iter().any(|(_, known)| known == holds);
        self.secret.as_ref().is_some_and(|(_, holds)| !is_known(holds))
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Pass(writes) => drop(self.pass_of(writes)),
            Happening::Use(times) => self.use_it(times),
            Happening::LoseSecret => self.secret = None,
            Happening::AlterSecret => {
                let status = self.key.status.clone().unwrap_or_default();
                if let Some((metadata, holds)) = &mut self.secret {
                    let recorded = status.id.as_ref() == metadata.annotations.get("setupkey.dev/id");
                    let mask = holds.mask.clone();
                    *holds = fingerprint(255);
                    // The first characters are all that the authority tells. They stay, where more is on record.
                    if recorded && status.digest.is_some() {
                        holds.mask = mask;
                    }
                }
            }
            // With the record, the means are lost to find out that a value was altered before.
            Happening::LoseStatus if self.is_altered() => {}
            Happening::LoseStatus => self.key.status = Some(SetupKeyStatus::default()),
            Happening::Revoke(revoked) => self.change_spec(|key| key.spec.revoked = revoked),
            Happening::RevokeThere => self.there.iter_mut().for_each(|(there, _)| there.revoked = true),
            Happening::DeleteThere => self.there.clear(),
            Happening::ChangeGroups => self.change_spec(|key| key.spec.auto_groups = vec!["a".to_owned()]),
            Happening::Refuse(refuses) => self.refuses = refuses,
            Happening::LeaveOver => {
                if let Some((there, holds)) = self.there.first().cloned()
                    && has_finalizer(&self.key)
                {
                    self.made += 1;
                    let id = KeyId::from_random_bytes([self.made; 20]);
                    self.there.push((RemoteKey { id, used_times: 0, ..there }, holds));
                }
            }
            Happening::Later(hours) => self.clock += chrono::Duration::hours(hours),
            Happening::AskForRotation => self.ask_for_rotation(),
            Happening::Overlap(hours) => self.change_spec(|key| {
                key.spec.rotation.get_or_insert_with(|| serde_json::from_value(json!({})).unwrap()).overlap =
                    Lifetime::hours(hours.unsigned_abs());
            }),
        }
    }
}

proptest! {
    /// Whatever happens, and wherever passes die: in the end there is one key at most, the Secret holds it or nothing, and
    /// the next pass has nothing to do.
    #[test]
    fn whatever_happens_it_settles_with_one_key(
        happenings in prop::collection::vec(rotating(), 0..14),
        renew_before in prop::option::of(prop::sample::select(vec!["1h", "12h", "23h"])),
    ) {
        let mut world = World::new(json!({
            "usageLimit": 4, "rotation": { "renewBefore": renew_before, "overlap": "6h" },
        }));
        for happening in &happenings {
            world.happen(*happening);
        }
        world.refuses = false;
        world.pass();
        world.pass();
        world.writes.clear();
        world.pass();
        prop_assert_eq!(&world.writes, &<Vec<&str>>::new());
        let status = world.status();
        let is_replaced = |id: &KeyId| status.previous.iter().any(|previous| previous.id == id.as_str());
        let (replaced, current): (Vec<_>, Vec<_>) = world.there.iter().partition(|(there, _)| is_replaced(&there.id));
        prop_assert!(current.len() <= 1, "{} keys", current.len());
        prop_assert_eq!(replaced.len(), status.previous.len(), "a replaced key is gone, and not told so");
        for (there, holds) in replaced {
            let previous = status.previous.iter().find(|previous| previous.id == there.id.as_str()).unwrap();
            prop_assert_eq!(&previous.digest, &holds.digest.to_string());
            prop_assert!(previous.admits_until.moment() >= world.clock, "a replaced key is left after its end");
        }
        if let Some((there, holds)) = current.first() {
            prop_assert_eq!(status.id.as_deref(), Some(there.id.as_str()));
            if status.state == Some(State::Valid) {
                let (metadata, held) = world.secret.clone().expect("the Secret of a valid key");
                prop_assert_eq!(&held, holds);
                prop_assert_eq!(metadata.annotations.get("setupkey.dev/id").map(String::as_str), Some(there.id.as_str()));
                prop_assert!(!there.revoked);
            }
            if world.key.spec.revoked {
                prop_assert!(there.revoked, "a revocation is not taken to the authority");
            }
        } else {
            prop_assert_ne!(status.state, Some(State::Valid));
        }
    }

    /// Wherever passes die: a replaced key stays at the authority until its end, and the Secret holds the key that comes
    /// instead by the time that key is the current one.
    #[test]
    fn a_rotation_cuts_off_no_machine(steps in prop::collection::vec((0..4u8, prop::option::of(0..5usize)), 1..16)) {
        let mut world = issued(json!({ "rotation": { "renewBefore": "10h", "overlap": "5h" } }));
        let mut ends = std::collections::BTreeMap::new();
        for (step, dies_after) in steps {
            match step {
                0 => world.ask_for_rotation(),
                1 => world.clock += chrono::Duration::hours(2),
                2 => world.clock -= chrono::Duration::minutes(50),
                _ => world.use_it(1),
            }
            let (before, admitted) = (world.status().id.clone().unwrap(), world.ids());
            world.pass_of(dies_after.unwrap_or(usize::MAX));
            let current = world.status().id.clone().unwrap();
            if current != before && world.key.previous().iter().any(|previous| previous.id == before) {
                let previous = world.key.previous().iter().find(|previous| previous.id == before).unwrap();
                ends.insert(before.clone(), previous.admits_until.moment());
            }
            for id in admitted.iter().filter(|id| !world.ids().contains(id)) {
                let is_over = ends.get(id).is_none_or(|end| *end < world.clock) && *id != current;
                let is_over = is_over || world.key.previous().len() == rotation::MOST_PREVIOUS;
                prop_assert!(is_over, "{} is deleted before its end", id);
            }
            let (metadata, held) = world.secret.clone().unwrap();
            let recorded = metadata.annotations.get("setupkey.dev/id") == Some(&current);
            prop_assert!(!recorded || world.status().digest.as_deref() == Some(held.digest.as_str()));
            prop_assert!(world.ids().contains(&current), "the current key is not there");
        }
    }

    /// Without a lost status, the uses of all keys together stay within the limit.
    #[test]
    fn no_more_peers_join_than_the_limit_allows(
        happenings in prop::collection::vec(happening(), 0..14),
    ) {
        let mut world = World::new(json!({ "usageLimit": 4 }));
        let (mut ended, mut before) = (0, world.there.clone());
        for happening in happenings {
            if matches!(happening, Happening::LoseStatus | Happening::LeaveOver | Happening::DeleteThere) {
                continue;
            }
            world.happen(happening);
            // The uses of keys that are deleted count too.
            let is_there = |id: &KeyId| world.there.iter().any(|(there, _)| there.id == *id);
            ended += before.iter().filter(|(there, _)| !is_there(&there.id)).map(|(there, _)| there.used_times).sum::<i64>();
            before.clone_from(&world.there);
            prop_assert!(ended + world.uses() <= 4, "{} uses", ended + world.uses());
        }
    }

    /// A deleted `SetupKey` leaves nothing there, wherever passes die.
    #[test]
    fn a_deletion_leaves_nothing(happenings in prop::collection::vec(rotating(), 0..10), dies in 0..4usize) {
        let mut world = World::new(json!({}));
        for happening in &happenings {
            world.happen(*happening);
        }
        world.key.metadata.deletion_timestamp =
            serde_json::from_value(json!("2026-11-24T06:00:00Z")).unwrap();
        world.is_deleted = true;
        world.pass_of(dies);
        world.pass();
        prop_assert!(world.there.is_empty() && !has_finalizer(&world.key));
    }
}
