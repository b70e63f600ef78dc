//! The planner and the data keys of a Secret, to which others write too.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::{
    api::{SecretTemplate, SetupKey, Timestamp},
    key::{
        Fingerprint, KeyValue,
        conditions::{READY, STALLED},
        data_keys::{WantedData, looked_at},
        ledger::Use,
        remote::AuthorityView,
        secret::{DataChange, DataPatch, Held, Metadata, SentKey, WrittenByUs, wanted_metadata},
    },
};

const PRIMARY: &str = "setup-key";
const NONE_ABANDONED: BTreeSet<Use> = BTreeSet::new();

/// A key of the cluster and its Secret, with the values in it.
#[derive(Clone)]
struct World {
    key: SetupKey,
    secret: Option<Stored>,
    clock: DateTime<Utc>,
    version: u64,
    writes: Vec<&'static str>,
    /// What others keep in the Secret: data keys that stood on no record when they were written.
    theirs: BTreeMap<String, String>,
    /// Whether the API server stores something else than is sent in this data key.
    webhook: Option<&'static str>,
}

#[derive(Clone, Default)]
struct Stored {
    version: u64,
    metadata: Metadata,
    data: BTreeMap<String, String>,
    managed: BTreeSet<String>,
    immutable: bool,
}

fn value(seed: u64) -> String {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    KeyValue::from_random_bytes(bytes).expose().to_owned()
}

fn fingerprint(value: &str) -> Option<Fingerprint> {
    KeyValue::parse(value.as_bytes()).map(|value| value.fingerprint())
}

impl World {
    /// A key with these aliases, after its first pass.
    fn settled(aliases: &[&str]) -> Self {
        let mut world = Self::new(aliases);
        world.pass();
        assert_eq!(world.says(READY), "True Reconciled");
        world.writes.clear();
        world
    }

    fn new(aliases: &[&str]) -> Self {
        let key = json!({
            "apiVersion": "setupkey.dev/v1alpha1", "kind": "SetupKey",
            "metadata": {
                "name": "office", "namespace": "n", "uid": "u1", "generation": 1, "resourceVersion": "1",
                "creationTimestamp": "2026-11-24T05:59:59Z",
            },
            "spec": { "expiresIn": "24h", "secret": { "aliases": aliases } },
            "status": { "observedGeneration": -1 },
        });
        Self {
            key: serde_json::from_value(key).unwrap(),
            secret: None,
            clock: "2026-11-24T06:00:00.5Z".parse().unwrap(),
            version: 1,
            writes: Vec::new(),
            theirs: BTreeMap::new(),
            webhook: None,
        }
    }

    fn template(&mut self) -> &mut SecretTemplate {
        self.key.metadata.generation = self.key.metadata.generation.map(|generation| generation + 1);
        self.key.spec.secret.as_mut().unwrap()
    }

    fn aliases(&self) -> &[String] {
        &self.key.spec.secret.as_ref().unwrap().aliases
    }

    fn says(&self, type_: &str) -> String {
        let condition = conditions::condition(self.key.status.as_ref().unwrap(), type_);
        condition.map(|condition| format!("{} {}", condition.status, condition.reason)).unwrap_or_default()
    }

    fn message(&self) -> &str {
        let condition = conditions::condition(self.key.status.as_ref().unwrap(), READY);
        condition.map_or("", |condition| &condition.message)
    }

    fn recorded(&self) -> &[String] {
        let secret = self.key.status.as_ref().and_then(|status| status.secret.as_ref());
        secret.map_or(&[], |secret| &secret.aliases)
    }

    fn data(&self) -> &BTreeMap<String, String> {
        &self.secret.as_ref().unwrap().data
    }

    /// Another writer puts this into a data key.
    fn write(&mut self, name: &str, value: &str) {
        self.version += 1;
        let is_recorded = self.recorded().iter().any(|recorded| recorded == name);
        let Some(secret) = &mut self.secret else { return };
        (secret.version, _) = (self.version, secret.managed.remove(name));
        secret.data.insert(name.to_owned(), value.to_owned());
        if !is_recorded {
            self.theirs.insert(name.to_owned(), value.to_owned());
        }
    }

    fn remove(&mut self, name: &str) {
        self.version += 1;
        let Some(secret) = &mut self.secret else { return };
        (secret.version, _, _) = (self.version, secret.managed.remove(name), secret.data.remove(name));
        self.theirs.remove(name);
    }

    fn view(&self, written: Written) -> SecretView {
        let Some(secret) = &self.secret else { return SecretView::Absent };
        let names = looked_at(&self.key, &secret.managed);
        let held = |name: &str| Some((name.to_owned(), Held::of(secret.data.get(name)?.as_bytes())));
        SecretView::Owned(OwnedSecret {
            resource_version: secret.version.to_string(),
            metadata: secret.metadata.clone(),
            written_by_us: WrittenByUs { data: secret.managed.clone(), ..Default::default() },
            immutable: secret.immutable,
            holds: secret.data.get(PRIMARY).and_then(|value| fingerprint(value)),
            data: names.into_iter().filter_map(held).collect(),
            belongs_to_another: false,
            written,
        })
    }

    /// One pass of the controller, which dies after so many writes. False if it died.
    fn pass_of(&mut self, writes: usize) -> bool {
        let (mut freshness, mut secret) = (Freshness::Cached, self.view(Written::Nothing));
        let before = self.writes.len();
        for _ in 0..12 {
            let observed = Observed {
                key: &self.key,
                stored: &self.key,
                freshness,
                authority: &AuthorityView::Cluster,
                secret: &secret,
                trouble: None,
                rehearsal: None,
                counted: Some(0),
                abandoned: &NONE_ABANDONED,
                peers_created: false,
                retried: false,
            };
            let step = plan(observed, self.clock);
            match step {
                Step::Wait(_) => return true,
                Step::Confirm => freshness = Freshness::Confirmed,
                _ if self.writes.len() - before >= writes => return false,
                Step::WriteStatus(status) => {
                    self.writes.push("status");
                    self.key.status = Some(*status);
                    freshness = Freshness::Confirmed;
                }
                step => secret = self.perform(step, &secret),
            }
        }
        panic!("it does not settle: {:?}", self.writes);
    }

    fn pass(&mut self) {
        assert!(self.pass_of(usize::MAX));
    }

    fn perform(&mut self, step: Step, seen: &SecretView) -> SecretView {
        self.version += 1;
        let wanted = WantedData::of(&self.key, &AuthorityView::Cluster);
        let (data, issue) = match (step, seen) {
            (Step::CreateSecret(issue), _) => {
                self.writes.push("create");
                self.secret = Some(Stored::default());
                (wanted.in_new_secret(), Some(issue))
            }
            (Step::ReplaceKey(issue), SecretView::Owned(secret)) => {
                self.writes.push("replace");
                (secret.data_with_new_key(&self.key, wanted), Some(issue))
            }
            (Step::Restore(changes), _) => {
                self.writes.push("restore");
                (changes.data, None)
            }
            (other, _) => unreachable!("{other:?}"),
        };
        let secret = self.secret.as_mut().unwrap();
        assert!(!secret.immutable, "the data of an immutable Secret is written");
        secret.version = self.version;
        let Some(issue) = issue else {
            self.store(data);
            return self.view(Written::Restoration);
        };
        let mut bytes = [0; 20];
        bytes[..8].copy_from_slice(&self.version.to_le_bytes());
        let id = issue.id.unwrap_or_else(|| KeyId::from_random_bytes(bytes));
        secret.metadata = wanted_metadata(&self.key, &id, issue.expires);
        secret.data.insert(PRIMARY.to_owned(), value(self.version));
        secret.managed.insert(PRIMARY.to_owned());
        self.store(data);
        let digest = fingerprint(&value(self.version)).unwrap().digest;
        self.view(Written::Key(SentKey { digest, id, expires: issue.expires }))
    }

    fn store(&mut self, data: DataPatch) {
        let secret = self.secret.as_mut().unwrap();
        let primary = secret.data[PRIMARY].clone();
        for (name, change) in data {
            assert!(name != PRIMARY, "the primary is taken for another data key");
            assert!(!self.theirs.contains_key(&name), "{name} is another writer's: {change:?}");
            match change {
                DataChange::Removal => {
                    secret.managed.remove(&name);
                    secret.data.remove(&name).expect("something to be removed");
                }
                DataChange::SetupKey => {
                    let altered = self.webhook == Some(name.as_str());
                    secret.data.insert(name.clone(), if altered { "altered".to_owned() } else { primary.clone() });
                    secret.managed.insert(name);
                }
                DataChange::Url(_) => unreachable!("a key of the cluster has no URL"),
            }
        }
    }

    /// The aliases that others hold.
    fn conflicts(&self) -> Vec<&String> {
        let primary = &self.data()[PRIMARY];
        self.aliases().iter().filter(|name| self.data().get(*name) != Some(primary)).collect()
    }
}

#[test]
fn a_new_secret_has_its_aliases_from_the_first_write() {
    let mut world = World::new(&["a", "b"]);
    world.pass();
    assert_eq!(world.writes, ["create", "status"]);
    assert_eq!(world.data().keys().collect::<Vec<_>>(), ["a", "b", PRIMARY]);
    assert_eq!(world.data().values().collect::<BTreeSet<_>>().len(), 1);
    assert_eq!(world.recorded(), ["a", "b"]);
}

#[test]
fn aliases_are_added_and_removed_with_the_spec_in_one_write() {
    let mut world = World::settled(&["a", "b"]);
    world.write("theirs", "t");
    let held = world.data()[PRIMARY].clone();
    world.template().aliases = vec!["b".to_owned(), "c".to_owned()];
    world.pass();
    assert_eq!(world.writes, ["restore", "status"]);
    let names: Vec<_> = world.data().iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(names, [("b", held.as_str()), ("c", &held), (PRIMARY, &held), ("theirs", "t")]);
    assert_eq!(world.recorded(), ["b", "c"]);
}

#[test]
fn an_altered_or_missing_alias_is_put_back_in_one_write() {
    for alter in [|world: &mut World| world.write("a", "altered"), |world: &mut World| world.remove("a")] {
        let mut world = World::settled(&["a"]);
        alter(&mut world);
        world.pass();
        assert_eq!(world.writes, ["restore", "status"]);
        assert_eq!(world.data()["a"], world.data()[PRIMARY]);
    }
}

#[test]
fn a_rotation_and_a_reissue_leave_no_old_value_behind() {
    let mut world = World::settled(&["a", "b"]);
    for happen in [
        |world: &mut World| {
            let annotations = world.key.metadata.annotations.get_or_insert_default();
            annotations.insert("setupkey.dev/rotate-requested-at".to_owned(), "2026-11-24T07:00:00Z".to_owned());
            world.clock += Duration::hours(2);
        },
        |world: &mut World| world.write(PRIMARY, "altered"),
    ] {
        let before = world.data()[PRIMARY].clone();
        happen(&mut world);
        // One alias goes at the same time, and one is altered.
        world.theirs.clear();
        world.template().aliases.retain(|alias| alias != "b");
        world.write("a", "altered");
        world.writes.clear();
        world.pass();
        assert_eq!(world.writes, ["replace", "status"]);
        assert!(world.data().values().all(|value| *value != before), "an old value is left");
        assert_eq!(world.data().keys().collect::<Vec<_>>(), ["a", PRIMARY]);
        assert_eq!(world.data()["a"], world.data()[PRIMARY]);
        world.template().aliases.push("b".to_owned());
        world.pass();
    }
}

#[test]
fn a_data_key_of_others_is_named_and_left_alone_until_it_goes() {
    let mut world = World::settled(&[]);
    world.write("a", "theirs");
    world.template().aliases = vec!["a".to_owned(), "b".to_owned()];
    world.pass();
    assert_eq!(world.writes, ["restore", "status"]);
    assert_eq!((world.data()["a"].as_str(), &world.data()["b"]), ("theirs", &world.data()[PRIMARY]));
    assert_eq!(
        (world.says(READY), world.says(STALLED)),
        ("False DataKeyConflict".into(), "True DataKeyConflict".into())
    );
    assert!(world.message().contains("\"a\"") && !world.message().contains("theirs"), "{}", world.message());
    assert_eq!(world.recorded(), ["b"]);
    // Neither another look nor another key changes that.
    world.writes.clear();
    world.pass();
    assert_eq!(world.writes, [""; 0]);
    world.write(PRIMARY, "altered");
    world.theirs.remove(PRIMARY);
    world.pass();
    assert_eq!(world.data()["a"], "theirs");

    world.remove("a");
    world.pass();
    assert_eq!((world.says(READY), world.conflicts().len()), ("True Reconciled".into(), 0));
    assert_eq!(world.says(STALLED), "");
}

#[test]
fn what_others_have_taken_over_is_not_removed() {
    let mut world = World::settled(&["a"]);
    world.template().aliases.clear();
    world.write("a", "theirs");
    world.pass();
    assert_eq!(world.data()["a"], "theirs");
    assert_eq!((world.says(READY), world.recorded().len()), ("True Reconciled".into(), 0));
}

#[test]
fn an_alias_is_taken_up_by_its_value_where_no_record_is_left() {
    let mut world = World::settled(&["a"]);
    world.key.status = None;
    world.secret.as_mut().unwrap().managed.clear();
    world.pass();
    assert_eq!((world.writes.as_slice(), world.says(READY)), (["status"].as_slice(), "True Reconciled".into()));
    assert_eq!(world.recorded(), ["a"]);
    world.template().aliases.clear();
    world.pass();
    assert_eq!(world.data().keys().collect::<Vec<_>>(), [PRIMARY]);
}

#[test]
fn an_alias_that_is_not_stored_is_sent_once_and_named() {
    let mut world = World::settled(&[]);
    world.webhook = Some("a");
    world.template().aliases = vec!["a".to_owned()];
    world.pass();
    assert_eq!(world.writes, ["restore", "status"]);
    assert_eq!(world.says(READY), "False MetadataNotKept");
    assert!(world.message().contains("data key a"), "{}", world.message());
    world.webhook = None;
    world.pass();
    assert_eq!(world.says(READY), "True Reconciled");
}

#[test]
fn an_immutable_secret_that_lacks_an_alias_says_what_to_do() {
    let mut world = World::settled(&[]);
    world.secret.as_mut().unwrap().immutable = true;
    world.template().aliases = vec!["a".to_owned()];
    world.pass();
    assert_eq!((world.writes.as_slice(), world.says(READY)), (["status"].as_slice(), "False SecretRefused".into()));
    assert!(world.message().contains("\"a\"") && world.message().contains("Delete the Secret"), "{}", world.message());
}

/// What may happen between two passes.
#[derive(Clone, Copy, Debug)]
enum Happening {
    Want(&'static str),
    WantNot(&'static str),
    Write(&'static str),
    /// Another writer copies the setup key.
    Copy(&'static str),
    Remove(&'static str),
    AlterPrimary,
    DeleteSecret,
    LoseStatus,
    LoseManagedFields,
    Rotate,
}

fn happening() -> impl Strategy<Value = Happening> {
    use Happening::*;
    let name = || prop::sample::select(vec!["a", "b", "c"]);
    prop_oneof![
        3 => name().prop_map(Want),
        2 => name().prop_map(WantNot),
        2 => name().prop_map(Write),
        1 => name().prop_map(Copy),
        2 => name().prop_map(Remove),
        2 => prop::sample::select(vec![AlterPrimary, DeleteSecret, LoseStatus, LoseManagedFields, Rotate]),
    ]
}

impl World {
    fn let_happen(&mut self, happening: Happening) {
        self.clock += Duration::seconds(5);
        match happening {
            Happening::Want(name) if !self.aliases().iter().any(|alias| alias == name) => {
                self.template().aliases.push(name.to_owned());
            }
            Happening::Want(_) => {}
            Happening::WantNot(name) => self.template().aliases.retain(|alias| alias != name),
            Happening::Write(name) => self.write(name, "theirs"),
            Happening::Copy(name) => {
                let primary = self.secret.as_ref().and_then(|secret| secret.data.get(PRIMARY)).cloned();
                // As good as our own.
                if let Some(primary) = primary {
                    self.write(name, &primary);
                    self.theirs.remove(name);
                }
            }
            Happening::Remove(name) => self.remove(name),
            Happening::AlterPrimary => {
                self.write(PRIMARY, "altered");
                self.theirs.remove(PRIMARY);
            }
            Happening::DeleteSecret => {
                self.secret = None;
                self.theirs.clear();
            }
            Happening::LoseStatus => self.key.status = None,
            Happening::LoseManagedFields => {
                self.secret.iter_mut().for_each(|secret| secret.managed.clear());
            }
            Happening::Rotate => {
                let now = Timestamp::from(self.clock).to_string();
                let annotations = self.key.metadata.annotations.get_or_insert_default();
                annotations.insert("setupkey.dev/rotate-requested-at".to_owned(), now);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Whatever happens, and wherever the controller dies: data keys of others stay, each alias holds the setup key or is
    /// named as a conflict, and a second look changes nothing.
    #[test]
    fn aliases_follow_the_key_and_others_are_never_touched(
        events in prop::collection::vec((happening(), prop::option::of(0..4usize)), 0..14),
    ) {
        let mut world = World::new(&["a"]);
        for (event, dies_after) in events {
            if let Some(writes) = dies_after {
                world.pass_of(writes);
            }
            world.let_happen(event);
        }
        world.pass();
        world.pass();
        for (name, value) in &world.theirs {
            prop_assert_eq!(world.data().get(name), Some(value));
        }
        let conflicts = world.conflicts();
        let ready = if conflicts.is_empty() { "True Reconciled" } else { "False DataKeyConflict" };
        prop_assert_eq!(world.says(READY), ready, "{}", world.message());
        prop_assert!(conflicts.iter().all(|name| world.message().contains(&format!("{name:?}"))), "{}", world.message());
        let held = world.aliases().iter().filter(|name| !conflicts.contains(name));
        prop_assert!(held.eq(world.recorded().iter()), "{:?}", world.recorded());
        world.writes.clear();
        world.pass();
        prop_assert_eq!(&world.writes, &[""; 0]);
    }

    /// A crash costs at most one write more than no crash, and ends with the same data keys.
    #[test]
    fn a_crash_between_two_writes_leaves_the_same_data_keys(event in happening(), dies_after in 0..3usize) {
        let mut smooth = World::settled(&["a", "b"]);
        smooth.let_happen(event);
        let mut crashed = smooth.clone();
        smooth.pass();
        crashed.pass_of(dies_after);
        crashed.pass();
        prop_assert!(crashed.writes.len() <= smooth.writes.len() + 1, "{:?} for {:?}", crashed.writes, smooth.writes);
        let names = |world: &World| (world.data().keys().cloned().collect::<Vec<_>>(), world.says(READY));
        prop_assert_eq!(names(&crashed), names(&smooth));
    }
}
