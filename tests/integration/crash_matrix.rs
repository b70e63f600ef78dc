//! The controller fails at every write of every story. It dies before or after the write, or loses the answer, or is
//! paused before the write and continues after another controller has taken over. The end state must be the same as
//! without a fault.

use std::{collections::BTreeSet, time::Duration};

use futures::{StreamExt, stream};
use kube::{ResourceExt, api::DeleteParams};
use serde_json::{Value, json};
use setupkey_operator::api::{SetupKeyStatus, State};

use crate::{
    faults::{Fault, Faults},
    harness::{Cluster, Operator, QUIET, Setup, TestClock, entry, eventually, says},
    history::History,
};

/// How long the controller leaves an enrollment to the replica that began it.
const HANDOVER: Duration = Duration::from_millis(500);

/// Fault points that are tested at the same time.
const AT_ONCE: usize = 6;

/// What happens to a key while no controller runs.
#[derive(Clone, Copy, Debug)]
enum Story {
    Create,
    Revoke,
    Unrevoke,
    Expire,
    DeleteSecret,
    TamperWithSecret,
    DriftMetadata,
    ChangeGroups,
    LoseStatus,
    Recreate,
    /// A replica of the enrollment service has died between the two writes of an enrollment.
    Orphan,
    /// An ephemeral peer stops sending heartbeats.
    Vanish,
    /// A person asks for a rotation.
    Rotate,
    RotateBySchedule,
    /// The overlap after a rotation is over.
    EndReplaced,
}

const STORIES: [Story; 12] = [
    Story::Create,
    Story::Revoke,
    Story::Unrevoke,
    Story::Expire,
    Story::DeleteSecret,
    Story::TamperWithSecret,
    Story::DriftMetadata,
    Story::ChangeGroups,
    Story::LoseStatus,
    Story::Recreate,
    Story::Orphan,
    Story::Vanish,
];

const ROTATIONS: [Story; 3] = [Story::Rotate, Story::RotateBySchedule, Story::EndReplaced];

/// What a run is judged by.
#[derive(Debug)]
struct Outcome {
    /// Everything that every other run must reproduce, which excludes key values, versions and times.
    end: Value,
    /// Writes that were sent, and how many of them made a change.
    sent: usize,
    applied: Vec<String>,
}

/// A key as it was before the story.
struct Before {
    status: Option<SetupKeyStatus>,
    clock: TestClock,
}

impl Story {
    /// Brings a key to the beginning of the story, and makes the story happen.
    async fn happen(self, cluster: &Cluster) -> Before {
        if let Story::Create = self {
            cluster.apply("office", "usageLimit: 3, expiresIn: 24h, secret: {labels: {team: a}, aliases: [alias]}");
            return Before { status: None, clock: TestClock::default() };
        }
        let operator = cluster.start_operator().await;
        let revoked = matches!(self, Story::Unrevoke);
        let renew = if let Story::RotateBySchedule = self { "renewBefore: 1h, " } else { "" };
        cluster.apply(
            "office",
            &format!(
                "usageLimit: 3, expiresIn: 24h, revoked: {revoked}, \
                 secret: {{labels: {{team: a}}, aliases: [alias]}}, rotation: {{{renew}overlap: 2h}}"
            ),
        );
        cluster.ready("office").await;
        cluster.patch_status("office", json!({ "usedTimes": 2 })).await;
        let mut status = cluster.ready("office").await;
        if let Story::EndReplaced = self {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let moment = status.issued_at.unwrap().plus_seconds(1);
            cluster.request_rotation("office", moment).await;
            status = cluster.status_when("office", "rotated", |status| status.revision == Some(2)).await;
        }
        operator.stop().await;

        let mut clock = TestClock::default();
        match self {
            Story::Create => unreachable!(),
            Story::Revoke => cluster.patch_spec("office", json!({ "revoked": true })).await,
            Story::Unrevoke => cluster.patch_spec("office", json!({ "revoked": false })).await,
            Story::Expire => {
                clock = TestClock::reading(status.expires.unwrap().moment() + chrono::Duration::seconds(1))
            }
            Story::DeleteSecret => cluster.delete_secret("office").await,
            Story::TamperWithSecret => {
                let planted = "563A1F41-DB48-43E6-B871-0EF6B9304390";
                cluster
                    .patch_secret("office", json!({ "stringData": { "setup-key": planted, "alias": "altered" } }))
                    .await;
            }
            Story::DriftMetadata => {
                let labels = json!({ "team": "b", "setupkey.dev/key": null });
                let data = json!({ "alias": "altered" });
                cluster.patch_secret("office", json!({ "metadata": { "labels": labels }, "stringData": data })).await;
            }
            Story::ChangeGroups => cluster.patch_spec("office", json!({ "autoGroups": ["a"] })).await,
            Story::LoseStatus => cluster.lose_status("office").await,
            Story::Recreate => {
                // A foreign finalizer keeps the old Secret until the new key has run into it.
                cluster.patch_secret("office", json!({ "metadata": { "finalizers": ["example.com/hold"] } })).await;
                cluster.keys().delete("office", &DeleteParams::default()).await.expect("a deleted key");
                cluster.apply("office", "usageLimit: 3, expiresIn: 24h, secret: {labels: {team: a}, aliases: [alias]}");
            }
            Story::Rotate => {
                let moment = status.issued_at.unwrap().plus_seconds(1);
                clock = TestClock::reading(moment.moment());
                cluster.request_rotation("office", moment).await;
            }
            Story::RotateBySchedule => clock = TestClock::reading(status.rotate_at.unwrap().moment()),
            Story::EndReplaced => {
                clock = TestClock::reading(status.previous[0].admits_until.moment() + chrono::Duration::seconds(1));
            }
            Story::Orphan => cluster.commit("office", &[entry(3)]).await,
            Story::Vanish => {
                let mut key = cluster.keys().get("office").await.expect("a key");
                key.spec.ephemeral = true;
                cluster.create_released_peer(&key, &entry(1)).await;
                clock.step(chrono::Duration::hours(1));
            }
        }
        Before { status: Some(status), clock }
    }

    /// Whether the status shows that the controller has handled the story.
    fn is_over(self, before: &Before, now: &SetupKeyStatus) -> bool {
        let old = before.status.as_ref();
        let ready = says(now, "Ready") == "True Reconciled";
        ready
            && match self {
                Story::Create | Story::ChangeGroups | Story::LoseStatus | Story::Unrevoke | Story::Vanish => true,
                Story::Orphan => now.pending.is_empty() && now.state == Some(State::Overused),
                Story::DriftMetadata => {
                    let version = |status: &SetupKeyStatus| status.secret.clone().map(|secret| secret.resource_version);
                    version(now) != old.and_then(version)
                }
                Story::Revoke => now.state == Some(State::Revoked),
                Story::Expire => now.state == Some(State::Expired),
                Story::Rotate | Story::RotateBySchedule => now.revision == Some(2),
                Story::EndReplaced => now.previous.is_empty(),
                Story::DeleteSecret | Story::TamperWithSecret | Story::Recreate => {
                    now.digest != old.and_then(|old| old.digest.clone())
                }
            }
    }

    /// What else happens during the story.
    async fn meanwhile(self, cluster: &Cluster) {
        if let Story::Recreate = self {
            cluster
                .status_when("office", "in conflict", |status| says(status, "Ready") == "False SecretConflict")
                .await;
            cluster.patch_secret("office", json!({ "metadata": { "finalizers": null } })).await;
        }
        std::future::pending().await
    }

    async fn run(self, fault: Option<(usize, Fault)>) -> Outcome {
        let cluster = Cluster::for_test(&format!("crash-{self:?}").to_lowercase()).await;
        let before = self.happen(&cluster).await;
        let faults = fault.map_or_else(Faults::default, |(n, fault)| Faults::at_write(n, fault));
        let setup = || Setup { clock: before.clock.clone(), handover: HANDOVER, ..Setup::default() };
        let history = match self {
            Story::Rotate | Story::RotateBySchedule => Some(History::of(&cluster, "office").await),
            _ => None,
        };
        let first = Setup { faults, wait_until_ready: false, ..setup() };
        let first = cluster.start_operator_with(first).await;
        let story = async {
            let (mut sent, mut applied) = (0, Vec::new());
            let mut account = |operator: &Operator| {
                sent += operator.requests.writes().len();
                applied.extend(operator.requests.applied());
            };
            let stopped = async {
                match fault {
                    Some((_, Fault::DieBefore | Fault::DieAfter)) => first.faults.died().await,
                    Some((_, Fault::Late)) => first.faults.late().await,
                    _ => self.settled(&cluster, &before).await,
                }
            };
            let stopped = tokio::time::timeout(Duration::from_secs(40), stopped).await;
            stopped.unwrap_or_else(|_| panic!("{self:?}: write {fault:?} never came"));
            let second = cluster.start_operator_with(setup()).await;
            self.settled(&cluster, &before).await;
            if let Some((_, Fault::Late)) = fault {
                first.faults.let_late_ones_go();
                // Long enough for the late request to arrive, and for the first controller to do whatever it does next.
                tokio::time::sleep(QUIET).await;
                self.settled(&cluster, &before).await;
            }
            account(&first);
            account(&second);
            first.kill().await;
            second.stop().await;
            (sent, applied)
        };
        let (sent, applied) = tokio::select! {
            outcome = story => outcome,
            () = self.meanwhile(&cluster) => unreachable!(),
        };
        if let (Some(history), Some(status)) = (&history, &before.status) {
            let old = status.digest.as_deref().expect("a key before the story");
            history.keeps(&cluster, "office", old, &format!("{self:?}, {fault:?}")).await;
        }
        Outcome { end: self.end(&cluster, &before).await, sent, applied }
    }

    /// Waits until the story is over and no more requests are made.
    async fn settled(self, cluster: &Cluster, before: &Before) {
        cluster.status_when("office", &format!("done with {self:?}"), |now| self.is_over(before, now)).await;
        // A story with peers ends only when the peers are as expected.
        eventually("the peers to be settled", || async {
            let peers = cluster.peers().list(&Default::default()).await.ok()?.items;
            let held = peers.iter().any(|peer| !peer.finalizers().is_empty());
            (!held && peers.len() == usize::from(matches!(self, Story::Orphan))).then_some(())
        })
        .await;
        let version = || async { cluster.keys().get("office").await.ok().and_then(|key| key.resource_version()) };
        let mut last = version().await;
        loop {
            tokio::time::sleep(Duration::from_millis(300)).await;
            let now = version().await;
            if now == last {
                return;
            }
            last = now;
        }
    }

    async fn end(self, cluster: &Cluster, before: &Before) -> Value {
        let key = cluster.keys().get("office").await.unwrap();
        let status = key.status.clone().unwrap();
        let secrets = cluster.secrets().list(&Default::default()).await.unwrap();
        let labelled = secrets.items.iter().filter(|secret| secret.labels().contains_key("setupkey.dev/key"));
        assert_eq!(labelled.count(), 1, "{self:?}: an orphan");
        let secret = cluster.secrets().get("office").await.unwrap();
        let live = crate::harness::digest(&cluster.value("office", "setup-key").await);
        assert_eq!(status.digest.as_deref(), Some(live.as_str()), "{self:?}: two values, or none");
        let alias = crate::harness::digest(&cluster.value("office", "alias").await);
        assert_eq!(alias, live, "{self:?}: the alias holds another value");
        assert_eq!(secret.owner_references()[0].uid, key.uid().unwrap());
        let same = |field: fn(&SetupKeyStatus) -> Option<String>| {
            before.status.as_ref().map(|before| field(before) == field(&status))
        };
        let peers = cluster.peers().list(&Default::default()).await.unwrap().items;
        json!({
            "peers": peers.iter().map(ResourceExt::name_any).collect::<Vec<_>>(),
            "state": status.state, "valid": status.valid, "usedTimes": status.used_times,
            "conditions": (["Ready", "Valid", "Stalled"].map(|type_| says(&status, type_))),
            "labels": secret.labels(),
            "annotations": secret.annotations().keys().collect::<BTreeSet<_>>(),
            "same id": same(|status| status.id.clone()),
            // Another key may expire in the same second or in another one, so only the expiry of the same key is
            // compared.
            "same expiry": same(|status| status.id.clone())
                .is_some_and(|same| same)
                .then(|| same(|status| status.expires.map(|expires| expires.to_string()))),
            "same key": same(|status| status.digest.clone()),
            "revision": status.revision,
            "replaced": status.previous.iter().map(|previous| {
                let old = before.status.as_ref().is_some_and(|old| old.digest.as_ref() == Some(&previous.digest));
                json!({ "is the old key": old, "usedTimes": previous.used_times, "usageLimit": previous.usage_limit })
            }).collect::<Vec<_>>(),
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn crash_matrix() {
    fail_everywhere("crash_matrix", &STORIES).await;
}

/// The Secret holds the current key, and the replaced one is neither ended before that nor forgotten after it.
#[tokio::test(flavor = "multi_thread")]
async fn rotation_crash_matrix() {
    fail_everywhere("rotation_crash_matrix", &ROTATIONS).await;
}

async fn fail_everywhere(name: &str, stories: &[Story]) {
    let smooth: Vec<(Story, Outcome)> = stream::iter(stories.to_vec())
        .map(|story| async move { (story, story.run(None).await) })
        .buffered(AT_ONCE)
        .collect()
        .await;
    let mut points = Vec::new();
    for (story, outcome) in &smooth {
        assert!(outcome.sent > 0, "{story:?} needs no write");
        for write in 0..outcome.sent {
            for fault in [Fault::DieBefore, Fault::DieAfter, Fault::LoseReply, Fault::Late] {
                points.push((*story, outcome, write, fault));
            }
        }
    }
    let count = points.len();
    stream::iter(points)
        .for_each_concurrent(AT_ONCE, |(story, smooth, write, fault)| async move {
            let crashed = story.run(Some((write, fault))).await;
            let point = format!("{story:?}, {fault:?} at write {write}");
            assert_eq!(crashed.end, smooth.end, "{point}");
            assert!(
                crashed.applied.len() <= smooth.applied.len() + 1,
                "{point}: {:#?} instead of {:#?}",
                crashed.applied,
                smooth.applied
            );
        })
        .await;
    let writes: Vec<_> = smooth.iter().map(|(story, outcome)| format!("{story:?} {}", outcome.sent)).collect();
    println!("{name}: {count} points passed; writes per story: {}", writes.join(", "));
}
