//! The controller fails at every write of every story, at the API server and at NetBird. It dies before or after the write,
//! or loses the answer, or is paused before the write and continues after another controller has taken over. In the end
//! there is one key at NetBird, the Secret holds it, and nothing is left over.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use futures::{StreamExt, future, stream};
use kube::{ResourceExt, api::DeleteParams};
use serde_json::json;
use setupkey_operator::{
    api::{KeyStanding, SetupKeyStatus},
    controller::AuthoritySettings,
};

use super::world::{AUTHORITY, World, ids};
use crate::{
    faults::{self, Faults},
    harness::{
        Setup, TestClock, condition, digest, eventually,
        netbird::{Fault, NetBird, Which, calls::Call},
        says,
    },
    history::History,
    requests::Sent,
};

/// Fault points that are tested at the same time.
const AT_ONCE: usize = 6;

/// How often the keys at NetBird are listed.
const INTERVAL: Duration = Duration::from_millis(500);

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Story {
    Create,
    Revoke,
    Unrevoke,
    ChangeGroups,
    DeleteSecret,
    AlterSecret,
    Delete,
    /// The `Authority` is deleted before the `SetupKey`, while no controller runs.
    DeleteWithoutAuthority,
    Rotate,
    /// The replaced key is to end at once.
    RotateWithoutOverlap,
    /// The overlap after a rotation is over.
    EndReplaced,
}

const STORIES: [Story; 8] = [
    Story::Create,
    Story::Revoke,
    Story::Unrevoke,
    Story::ChangeGroups,
    Story::DeleteSecret,
    Story::AlterSecret,
    Story::Delete,
    Story::DeleteWithoutAuthority,
];

const ROTATIONS: [Story; 3] = [Story::Rotate, Story::RotateWithoutOverlap, Story::EndReplaced];

/// Where a write goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Side {
    Kubernetes,
    NetBird,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Failure {
    DieBefore,
    DieAfter,
    LoseAnswer,
    /// Paused before the write, until another controller has taken over and is done.
    Paused,
}

const FAILURES: [Failure; 4] = [Failure::DieBefore, Failure::DieAfter, Failure::LoseAnswer, Failure::Paused];

type Point = (Side, usize, Failure);

/// Writes of `SetupKey`s and of Secrets with keys. Dry runs write nothing.
fn counts(sent: &Sent) -> bool {
    let of_key = sent.path.contains("/setupkeys/") || sent.path.contains("/secrets");
    sent.is_write() && of_key && !sent.query.contains("dryRun")
}

fn is_write_of_key(call: &Call) -> bool {
    call.is_write() && call.path.starts_with("/api/setup-keys")
}

/// What is compared with the beginning.
struct Before {
    status: Option<SetupKeyStatus>,
    group: String,
    clock: TestClock,
}

impl Story {
    async fn world(self) -> (World, Before) {
        let test = format!("nb-{self:?}").to_lowercase();
        let world = World::new(&test).await;
        let group = world.netbird.group("changed").await;
        let mut before = Before { status: None, group: group.id, clock: TestClock::default() };
        if self == Story::Create {
            world.create("office", json!({ "usageLimit": 3 })).await;
            return (world, before);
        }
        let operator = world.cluster.start_operator_with(setup(Faults::default(), TestClock::default())).await;
        let revoked = self == Story::Unrevoke;
        let overlap = if self == Story::RotateWithoutOverlap { "0s" } else { "2h" };
        let spec = json!({ "usageLimit": 3, "revoked": revoked, "rotation": { "overlap": overlap } });
        world.create("office", spec).await;
        let mut status = world
            .cluster
            .status_when("office", "as the story begins", |status| {
                let valid = if revoked { "False Revoked" } else { "True Valid" };
                says(status, "Ready") == "True Reconciled" && says(status, "Valid") == valid
            })
            .await;
        let later = status.issued_at.unwrap().plus_seconds(1);
        if self == Story::EndReplaced {
            tokio::time::sleep(Duration::from_secs(1)).await;
            world.cluster.request_rotation("office", later).await;
            status = world.cluster.status_when("office", "rotated", |status| status.revision == Some(2)).await;
        }
        operator.stop().await;
        before.status = Some(status.clone());
        match self {
            Story::Create => unreachable!(),
            Story::Revoke => world.cluster.patch_spec("office", json!({ "revoked": true })).await,
            Story::Unrevoke => world.cluster.patch_spec("office", json!({ "revoked": false })).await,
            Story::ChangeGroups => {
                world.cluster.patch_spec("office", json!({ "autoGroups": [world.netbird.name("changed")] })).await;
            }
            Story::DeleteSecret => world.cluster.delete_secret("office").await,
            Story::AlterSecret => {
                let value = world.cluster.value("office", "setup-key").await;
                // All but the last characters are NetBird's.
                let altered = format!("{}000000", &value[..value.len() - 6]);
                world.cluster.patch_secret("office", json!({ "stringData": { "setup-key": altered } })).await;
            }
            Story::Rotate | Story::RotateWithoutOverlap => {
                before.clock = TestClock::reading(later.moment());
                world.cluster.request_rotation("office", later).await;
            }
            Story::EndReplaced => {
                let end = status.previous[0].admits_until.moment() + chrono::Duration::seconds(1);
                before.clock = TestClock::reading(end);
            }
            Story::Delete => world.delete("office").await,
            Story::DeleteWithoutAuthority => {
                world.authorities().delete(AUTHORITY, &DeleteParams::default()).await.expect("a deletion");
                world.delete("office").await;
            }
        }
        (world, before)
    }

    fn ends_with_the_key(self) -> bool {
        matches!(self, Story::Delete | Story::DeleteWithoutAuthority)
    }

    fn is_over(self, before: &Before, now: &SetupKeyStatus) -> bool {
        let (ready, valid) = (says(now, "Ready") == "True Reconciled", says(now, "Valid"));
        let is_new = || now.id != before.status.as_ref().and_then(|before| before.id.clone());
        let active = now.authority.as_ref().is_some_and(|there| there.standing == KeyStanding::Active);
        ready
            && match self {
                Story::Create | Story::ChangeGroups => valid == "True Valid" && active,
                Story::Revoke => valid == "False Revoked",
                Story::Unrevoke | Story::DeleteSecret | Story::AlterSecret => {
                    valid == "True Valid" && active && is_new()
                }
                Story::Rotate => valid == "True Valid" && active && now.revision == Some(2),
                Story::RotateWithoutOverlap | Story::EndReplaced => {
                    valid == "True Valid" && active && now.revision == Some(2) && now.previous.is_empty()
                }
                Story::Delete | Story::DeleteWithoutAuthority => false,
            }
    }

    /// Waits until the story is over here and at NetBird.
    async fn settled(self, world: &World, before: &Before) {
        if self.ends_with_the_key() {
            world.gone("office").await;
        } else {
            world.cluster.status_when("office", &format!("done with {self:?}"), |now| self.is_over(before, now)).await;
        }
        let left = match self {
            Story::Delete => 0,
            Story::Rotate => 2,
            _ => 1,
        };
        eventually(&format!("{left} keys at NetBird after {self:?}"), || async {
            (world.there("office").await.len() == left).then_some(())
        })
        .await;
        tokio::time::sleep(2 * INTERVAL).await;
    }

    /// Checks the end, which must be the same after every failure.
    async fn check(self, world: &World, before: &Before, point: Option<Point>) {
        let died_after = matches!(point, Some((.., Failure::DieAfter)));
        let point = point.map_or_else(|| format!("{self:?}"), |point| format!("{self:?} {point:?}"));
        if self == Story::Delete {
            let left = world.there("office").await;
            assert!(left.is_empty(), "{point}: {:?} are left at NetBird", ids(&left));
            assert!(world.cluster.keys().get_opt("office").await.unwrap().is_none(), "{point}: it came back");
            return;
        }
        let mut there = world.there("office").await;
        if let (Story::Rotate, Some(old)) = (self, &before.status) {
            let status = world.cluster.keys().get("office").await.unwrap().status.unwrap();
            let replaced = there.iter().position(|there| Some(&there.id) == old.id.as_ref());
            let replaced = there.remove(replaced.unwrap_or_else(|| panic!("{point}: the replaced key is gone")));
            assert!(replaced.valid, "{point}: the replaced key is revoked");
            let recorded: Vec<_> = status.previous.iter().map(|key| (&key.id, Some(&key.digest))).collect();
            assert_eq!(recorded, [(&replaced.id, old.digest.as_ref())], "{point}");
        }
        assert_eq!(there.len(), 1, "{point}: keys at NetBird: {:?}", ids(&there));
        if self == Story::DeleteWithoutAuthority {
            // An event is sent beside the write that lets the object go, and a crash may lose it.
            if !died_after {
                world.cluster.event("office", "KeyLeftBehind").await;
            }
            return;
        }
        let there = &there[0];
        let status = world.cluster.keys().get("office").await.unwrap().status.unwrap();
        assert!(self.is_over(before, &status), "{point}: {:?}", condition(&status, "Ready"));
        assert_eq!(status.id.as_deref(), Some(there.id.as_str()), "{point}");
        assert_eq!(there.revoked, self == Story::Revoke, "{point}");
        let value = world.cluster.value("office", "setup-key").await;
        assert_eq!(status.digest, Some(digest(&value)), "{point}: the Secret holds another value");
        assert_eq!(status.key.as_deref(), Some(format!("{}****", &value[..5]).as_str()), "{point}");
        let shown = secrecy::ExposeSecret::expose_secret(&there.key);
        assert!(value.starts_with(shown.trim_end_matches('*')), "{point}: the Secret holds another key");
        assert_eq!(there.usage_limit, 3, "{point}");
        let groups = if self == Story::ChangeGroups { vec![before.group.clone()] } else { Vec::new() };
        assert_eq!(there.auto_groups, groups, "{point}");
        let secret = world.cluster.secrets().get("office").await.unwrap();
        assert_eq!(secret.annotations().get("setupkey.dev/id"), status.id.as_ref(), "{point}");
        let keeps_its_key = matches!(self, Story::Revoke | Story::ChangeGroups);
        if let (Some(before), true) = (&before.status, keeps_its_key) {
            assert_eq!((&before.id, &before.digest), (&status.id, &status.digest), "{point}");
        }
    }

    /// Tells the story. Returns how many writes each side has taken, and whether the story came to this point.
    async fn run(self, point: Option<Point>) -> ((usize, usize), bool) {
        let (world, before) = self.world().await;
        world.netbird.proxy.forget();
        let counted = AtomicUsize::new(0);
        let faults = Faults::by(move |sent, _| {
            let number = counts(sent).then(|| counted.fetch_add(1, Ordering::SeqCst))?;
            let (_, at, failure) = point.filter(|(side, ..)| *side == Side::Kubernetes)?;
            (number == at).then_some(match failure {
                Failure::DieBefore => faults::Fault::DieBefore,
                Failure::DieAfter => faults::Fault::DieAfter,
                Failure::LoseAnswer => faults::Fault::LoseReply,
                Failure::Paused => faults::Fault::Late,
            })
        });
        let injection = point.filter(|(side, ..)| *side == Side::NetBird).map(|(_, at, failure)| {
            let fault = match failure {
                Failure::DieBefore | Failure::Paused => Fault::PauseBefore,
                Failure::DieAfter => Fault::PauseAfter,
                Failure::LoseAnswer => Fault::DropAfter,
            };
            world.netbird.proxy.inject(is_write_of_key, Which::Nth(at), fault)
        });
        let history = match self {
            Story::Rotate => Some(History::of(&world.cluster, "office").await),
            _ => None,
        };
        let first = Setup { wait_until_ready: false, ..setup(faults, before.clock.clone()) };
        let first = world.cluster.start_operator_with(first).await;
        let struck = async {
            match (point, &injection) {
                (Some((Side::Kubernetes, _, Failure::DieBefore | Failure::DieAfter)), _) => first.faults.died().await,
                (Some((Side::Kubernetes, _, Failure::Paused)), _) => first.faults.late().await,
                (Some((.., Failure::DieBefore | Failure::DieAfter | Failure::Paused)), Some(injection)) => {
                    injection.hit(1).await;
                }
                // It goes on after a lost answer.
                _ => future::pending().await,
            }
        };
        let goes_on = point.is_none_or(|(.., failure)| failure == Failure::LoseAnswer);
        let struck = tokio::select! {
            biased;
            () = struck => true,
            () = self.settled(&world, &before) => goes_on,
        };
        let sent = || {
            (
                // What is sent in vain, for an object that is gone since, is not sent every time.
                first.requests.changes(counts),
                world.netbird.proxy.calls().iter().filter(|call| is_write_of_key(call)).count(),
            )
        };
        let sent = sent();
        let first = match point {
            Some((.., Failure::DieBefore | Failure::DieAfter)) => {
                first.kill().await;
                None
            }
            _ => Some(first),
        };
        let second = world.cluster.start_operator_with(setup(Faults::default(), before.clock.clone())).await;
        self.settled(&world, &before).await;
        if let (Some(first), Some((.., Failure::Paused))) = (&first, point) {
            first.faults.let_late_ones_go();
            if let Some(injection) = &injection {
                injection.release();
            }
            tokio::time::sleep(4 * INTERVAL).await;
            self.settled(&world, &before).await;
        }
        self.check(&world, &before, point).await;
        if let (Some(history), Some(status)) = (&history, &before.status) {
            let old = status.digest.as_deref().expect("a key before the story");
            history.keeps(&world.cluster, "office", old, &format!("{self:?} {point:?}")).await;
        }
        if let Some(first) = first {
            first.kill().await;
        }
        second.stop().await;
        (sent, struck)
    }
}

fn setup(faults: Faults, clock: TestClock) -> Setup {
    let setup = Setup::default();
    let authorities = AuthoritySettings { interval: Some(INTERVAL), ..setup.authorities.clone() };
    Setup { faults, clock, authorities, ..setup }
}

#[tokio::test(flavor = "multi_thread")]
async fn netbird_crash_matrix() {
    fail_everywhere("netbird_crash_matrix", &STORIES).await;
}

/// The replaced key is at NetBird until its end, and the Secret holds the key that comes instead before it is the current one.
#[tokio::test(flavor = "multi_thread")]
async fn netbird_rotation_crash_matrix() {
    fail_everywhere("netbird_rotation_crash_matrix", &ROTATIONS).await;
}

async fn fail_everywhere(name: &str, stories: &[Story]) {
    drop(NetBird::for_test("crash").await);
    let smooth: Vec<_> = stream::iter(stories.to_vec())
        .map(|story| async move { (story, story.run(None).await.0) })
        .buffered(AT_ONCE)
        .collect()
        .await;
    let mut points = Vec::new();
    for (story, (kubernetes, netbird)) in &smooth {
        for (side, count) in [(Side::Kubernetes, *kubernetes), (Side::NetBird, *netbird)] {
            points.extend((0..count).flat_map(|write| FAILURES.map(|failure| (*story, (side, write, failure)))));
        }
    }
    let count = points.len();
    let missed: Vec<_> = stream::iter(points)
        .map(|(story, point)| async move { (!story.run(Some(point)).await.1).then_some((story, point)) })
        .buffer_unordered(AT_ONCE)
        .filter_map(future::ready)
        .collect()
        .await;
    // How often a story writes its status depends on when NetBird answers, so its last write may not come in another run. The
    // end was checked all the same.
    for (story, (side, write, _)) in &missed {
        let (_, (kubernetes, _)) = smooth.iter().find(|(other, _)| other == story).expect("the story without failures");
        let may_not_come = *side == Side::Kubernetes && *write > 0 && write + 1 == *kubernetes;
        assert!(may_not_come, "{story:?}: write {write} of {side:?} never came: {missed:?}");
    }
    let writes = smooth.iter().map(|(story, (kubernetes, netbird))| format!("{story:?} {kubernetes} + {netbird}"));
    let writes: Vec<_> = writes.collect();
    let missed = missed.len();
    println!(
        "{name}: {count} points passed, {missed} of them never came; writes per story, here + there: {}",
        writes.join(", ")
    );
}
