//! `kubectl setupkey rotate --now`: the next key, and the end of all before it.
//!
//! An overlap of 0s ends every replaced key, and ended keys do not come back. So the overlap is set to 0s in the write that
//! asks for the rotation, and is put back as it was once the status shows that the keys have ended. The operator goes on
//! without this program, so a caller who is interrupted is told what is left to do.

use kube::api::DynamicObject;
use serde_json::{Value, json};
use setupkey_operator::{
    actions::{gitops::managed_by, moment_of_request},
    api::{Rotation, SetupKey, metadata::ROTATE_ANNOTATION},
    cluster::{ObjectName, call},
    key::conditions::is_ready,
};

use crate::{
    each::{Patience, why},
    failure::Failure,
    print::Printer,
    rotate::{Asked, Seen, check, issued},
    session::Session,
};

/// What the overlap is set to meanwhile.
const NOTHING: &str = "0s";

/// How often a write is tried that others come between.
const TRIES: usize = 10;

/// A rotation that was asked for, with the end of all earlier keys.
pub struct AtOnce {
    asked: Asked,
    overlap: Overlap,
}

/// What has stood in the spec.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Overlap {
    /// There was no `spec.rotation`.
    Absent,
    /// In the words of the spec.
    Text(String),
}

impl Overlap {
    fn of(key: &DynamicObject) -> Self {
        match overlap(key) {
            Some(text) => Self::Text(text.to_owned()),
            None => Self::Absent,
        }
    }

    /// The patch that puts it back into this `spec.rotation`. What others have added there stays.
    fn back(&self, rotation: Option<&Value>) -> Value {
        let others =
            rotation.and_then(Value::as_object).is_some_and(|fields| fields.keys().any(|key| key != "overlap"));
        json!({ "spec": { "rotation": match self {
            Self::Text(text) => json!({ "overlap": text }),
            // Without it, the overlap has its default, as without the whole.
            Self::Absent if others => json!({ "overlap": null }),
            Self::Absent => Value::Null,
        } } })
    }
}

fn overlap(key: &DynamicObject) -> Option<&str> {
    key.data.pointer("/spec/rotation/overlap")?.as_str()
}

/// Warns that a GitOps tool may end this too early.
pub fn warn_of_gitops(key: &SetupKey, printer: &Printer) {
    if let Some(tool) = managed_by(&key.metadata) {
        printer.warn(&format!(
            "{tool} manages SetupKey {} and may put spec.rotation.overlap back before the replaced keys have ended: suspend it meanwhile",
            ObjectName::of(key)
        ));
    }
}

/// Asks for the next key and for the end of all others, in one write.
pub async fn ask(session: &Session, key: SetupKey) -> Result<AtOnce, Failure> {
    check(&key)?;
    let name = ObjectName::of(&key);
    let mut tries = TRIES;
    loop {
        let stored = session.keys.stored(&name).await?;
        let before = read(&stored, &name)?;
        check(&before)?;
        let moment = moment_of_request(&before, session.now());
        let mut patch = json!({ "metadata": {
            // The overlap that is put back must be the one that this write replaces.
            "resourceVersion": stored.metadata.resource_version,
            "annotations": { ROTATE_ANNOTATION: moment },
        } });
        if before.spec.overlaps() {
            patch["spec"] = json!({ "rotation": { "overlap": NOTHING } });
        }
        tries -= 1;
        match session.keys.patch(&key, patch).await {
            Ok(written) => {
                return Ok(AtOnce { asked: Asked { before, written, moment }, overlap: Overlap::of(&stored) });
            }
            Err(error) if is_conflict(&error) && tries > 0 => {}
            Err(error) if error.code().is_none() && before.spec.overlaps() => {
                let command = command(&name, &Overlap::of(&stored), before.spec.rotation.as_ref());
                return Err(Failure::new(format!(
                    "{}; whether it was written is not known: if spec.rotation.overlap is {NOTHING}, put it back with: {command}",
                    Failure::from(error)
                )));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// What puts the overlap back by hand.
fn command(name: &ObjectName, overlap: &Overlap, rotation: Option<&Rotation>) -> String {
    let rotation = rotation.and_then(|rotation| serde_json::to_value(rotation).ok());
    let (ObjectName { namespace, name }, patch) = (name, overlap.back(rotation.as_ref()));
    format!("kubectl patch setupkeys.setupkey.dev {name} -n {namespace} --type=merge -p '{patch}'")
}

fn read(stored: &DynamicObject, name: &ObjectName) -> Result<SetupKey, Failure> {
    let unreadable = |error| Failure::new(format!("SetupKey {name} cannot be read: {error}"));
    stored.clone().try_parse().map_err(unreadable)
}

fn is_conflict(error: &call::Error) -> bool {
    error.code() == Some(409)
}

impl AtOnce {
    /// Waits until the next key is issued and all others have ended, and puts the overlap back.
    pub async fn follow(self, session: &Session, patience: Patience) -> Result<String, Failure> {
        let waited = session.keys.until(&self.asked.written, patience.left(), |key| self.look(key));
        let waited = tokio::select! {
            waited = waited => waited,
            _ = tokio::signal::ctrl_c() => return Err(self.left("the wait for it was interrupted")),
        };
        let after = match waited.answer {
            Some(Ok(after)) => after,
            Some(Err(failure)) => return Err(failure),
            None => {
                let why = self.asked.why_not(waited.last.as_ref(), waited.error);
                return Err(self.left(&format!("it is not done{}: {why}", patience.in_words())));
            }
        };
        let restored = self.put_back(session).await?;
        let seen = self.seen(session, restored.as_ref(), patience).await?;
        let name = ObjectName::of(&after).name;
        Ok(format!("setupkey {name}: {}", issued(&self.asked.before, &after, seen, session.now())))
    }

    /// The key once all others have ended, or why they do not.
    fn look(&self, key: Option<&SetupKey>) -> Option<Result<SetupKey, Failure>> {
        let name = ObjectName::of(&self.asked.before).name;
        let Some(key) = key else {
            return Some(Err(Failure::new(format!("setupkey {name} was deleted before it was rotated"))));
        };
        if !self.asked.is_met(key.status.as_ref()?) {
            return None;
        }
        if key.previous().is_empty() {
            return Some(Ok(key.clone()));
        }
        // They are on record at NetBird until they are deleted there.
        key.spec.overlaps().then(|| {
            Err(Failure::new(format!(
                "setupkey {name} is rotated, and replaced keys still admit machines: another writer has set spec.rotation.overlap to {} meanwhile; suspend what manages it, and run this again",
                key.spec.overlap()
            )))
        })
    }

    /// Puts the overlap back, unless another writer has changed it meanwhile. Returns the key if it was changed.
    async fn put_back(&self, session: &Session) -> Result<Option<SetupKey>, Failure> {
        if !self.asked.before.spec.overlaps() {
            return Ok(None);
        }
        let name = ObjectName::of(&self.asked.before);
        let failed = |why: String| {
            Failure::new(format!(
                "setupkey {} is rotated, and spec.rotation.overlap is still {NOTHING}: {why}; put it back with: {}",
                name.name,
                self.command()
            ))
        };
        let mut tries = TRIES;
        loop {
            let stored = session.keys.stored(&name).await.map_err(|error| failed(Failure::from(error).to_string()))?;
            let is_ours = stored.metadata.uid == self.asked.before.metadata.uid && overlap(&stored) == Some(NOTHING);
            if !is_ours {
                return Ok(None);
            }
            let mut patch = self.overlap.back(stored.data.pointer("/spec/rotation"));
            patch["metadata"]["resourceVersion"] = json!(stored.metadata.resource_version);
            tries -= 1;
            match session.keys.patch(&self.asked.written, patch).await {
                Ok(restored) => return Ok(Some(restored)),
                Err(error) if is_conflict(&error) && tries > 0 => {}
                Err(error) => return Err(failed(Failure::from(error).to_string())),
            }
        }
    }

    /// Waits until the operator has looked through the keys at NetBird. It does that before it reports the restored spec, and
    /// deletes the replaced key first, which is on no record any more.
    async fn seen(&self, session: &Session, restored: Option<&SetupKey>, patience: Patience) -> Result<Seen, Failure> {
        let Some(restored) = restored.filter(|key| key.spec.authority_ref.is_some()) else {
            return Ok(Seen::InStatus);
        };
        let generation = restored.metadata.generation;
        let waited = session.keys.until(restored, patience.left(), |key| {
            let key = key?;
            let is_reported = key.status.as_ref()?.observed_generation >= generation;
            (is_reported && is_ready(key)).then_some(())
        });
        let (after, why) = tokio::select! {
            waited = waited => match waited.answer {
                Some(()) => return Ok(Seen::AtAuthority),
                None => (patience.in_words(), why(waited.last.as_ref(), waited.error)),
            },
            _ = tokio::signal::ctrl_c() => (String::new(), "the wait for it was interrupted".to_owned()),
        };
        let name = ObjectName::of(restored).name;
        Err(Failure::new(format!(
            "setupkey {name} is rotated, and NetBird has not confirmed{after} that the replaced key is deleted: {why}"
        )))
    }

    /// What stands in the spec after a wait that has ended early, and the command that puts it back.
    fn left(&self, why: &str) -> Failure {
        let name = ObjectName::of(&self.asked.before).name;
        let left = if self.asked.before.spec.overlaps() {
            let command = self.command();
            format!(
                "; spec.rotation.overlap is {NOTHING}, which ends all replaced keys; once the next key is issued and status.previous is empty, put it back with: {command}"
            )
        } else {
            String::new()
        };
        Failure::new(format!("the rotation of setupkey {name} is requested, and {why}{left}"))
    }

    fn command(&self) -> String {
        command(&ObjectName::of(&self.asked.before), &self.overlap, self.asked.written.spec.rotation.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_overlap_is_put_back_as_it_was() {
        let text = Overlap::Text("1440m".to_owned());
        let rotation = json!({ "overlap": "0s" });
        assert_eq!(text.back(Some(&rotation)), json!({ "spec": { "rotation": { "overlap": "1440m" } } }));
        assert_eq!(Overlap::Absent.back(Some(&rotation)), json!({ "spec": { "rotation": null } }));
        let others = json!({ "overlap": "0s", "renewBefore": "24h" });
        assert_eq!(Overlap::Absent.back(Some(&others)), json!({ "spec": { "rotation": { "overlap": null } } }));
    }
}
