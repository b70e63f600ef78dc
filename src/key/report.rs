//! The status that is true of what was observed. All of it is computed again in every pass, but for what was fixed at issue
//! and what the ledger counts.

use chrono::{DateTime, Utc};

use super::{
    Facts,
    conditions::{Finding, READY, STALLED, VALID, set_condition},
    data_keys::WantedData,
    facts::issued_at,
    findings::{ready, valid},
    mirror::mirror,
    record::{Issue, Observed, Subject, holds_the_key, id_in_status},
    rotation,
    secret::{OwnedSecret, SecretView},
};
use crate::api::{KeyStanding, SecretReference, SetupKey, SetupKeyStatus, State};

/// The status after a pass that has seen all there is to see: the spec of this generation is fulfilled, or the conditions say
/// why not.
pub fn report(observed: Observed<'_>, now: DateTime<Utc>) -> SetupKeyStatus {
    let Observed { key, counted, .. } = observed;
    let mut status = key.status.clone().unwrap_or_default();
    let generation = key.metadata.generation;
    if status.observed_generation != generation {
        status.observed_generation = generation;
        status.updated_at = Some(now.into());
    }
    // Peers are counted only where the ledger is lost, and uses never go down.
    status.used_times = status.used_times.max(counted.filter(|_| status.id.is_none()).unwrap_or_default());
    status.usage_limit = key.spec.effective_usage_limit();
    mirror(&mut status, observed, now);
    copy_secret(&mut status, observed, now);
    set_revision(&mut status, key, now);
    status.rotate_at = rotation::rotate_at(key, &status, now);

    let ready = ready(observed, now);
    if let Some(ready) = &ready {
        set_condition(&mut status.conditions, READY, Some(ready.clone()), generation, now);
    }
    set_state(&mut status, key, now);
    if let Some(ready) = ready {
        let stalled = ready.stalls().then_some(Finding { holds: true, ..ready });
        set_condition(&mut status.conditions, STALLED, stalled, generation, now);
    }
    status
}

/// The status in the middle of a pass, or after one that may soon get further: the state of a key that was issued follows
/// spec and clock, and nothing is said about the rest. `observedGeneration` stays behind until all of the spec is applied.
pub fn partial_report(observed: Observed<'_>, now: DateTime<Utc>) -> SetupKeyStatus {
    let mut status = observed.key.status.clone().unwrap_or_default();
    let key = observed.key;
    let revision = status.revision;
    mirror(&mut status, observed, now);
    copy_remote_key(&mut status, observed);
    set_revision(&mut status, key, now);
    if status.revision != revision {
        status.rotate_at = rotation::rotate_at(key, &status, now);
    }
    if Facts::new(&key.spec, &status).is_some() {
        set_state(&mut status, key, now);
    }
    status
}

/// What follows from the record of the current revision, and which replaced keys are left. Those at an authority stay on
/// record until they are gone there.
fn set_revision(status: &mut SetupKeyStatus, key: &SetupKey, now: DateTime<Utc>) {
    if Facts::new(&key.spec, status).is_some() {
        status.revision.get_or_insert(1);
        status.issued_at = issued_at(&key.spec, status);
    }
    if key.spec.authority_ref.is_none() {
        status.previous.retain(|previous| !rotation::has_ended(previous, &key.spec, now));
    }
}

fn set_state(status: &mut SetupKeyStatus, key: &SetupKey, now: DateTime<Utc>) {
    status.state = Facts::new(&key.spec, status).map(|facts| facts.state(now));
    status.valid = Some(status.state == Some(State::Valid));
    let valid = valid(key, status, now);
    set_condition(&mut status.conditions, VALID, Some(valid), key.metadata.generation, now);
}

/// Copies what the Secret says, so that `digest` is there exactly while a Secret of ours holds that key.
fn copy_secret(status: &mut SetupKeyStatus, observed: Observed<'_>, now: DateTime<Utc>) {
    let Observed { key, secret, trouble, .. } = observed;
    if trouble.is_some_and(|trouble| trouble.with == Subject::Peers) {
        return; // With the id, the ledger would begin at zero.
    }
    if key.spec.authority_ref.is_some() {
        copy_remote_key(status, observed);
        return refer_to_secret(status, observed);
    }
    if let SecretView::Owned(secret) = secret {
        let issue = Issue::of(observed, secret, now);
        let holds = secret.holds.as_ref().filter(|_| holds_the_key(observed, secret));
        if issue.id.is_some() && id_in_status(key).is_some() && issue.id != id_in_status(key) {
            rotation::begin(status, key, now);
        }
        // Also where the key itself is wrong, or uses that were counted would be those of the next id.
        status.id = issue.id.map(|id| id.to_string());
        status.expires = Some(issue.expires);
        status.digest = holds.map(|found| found.digest.to_string());
        status.key = holds.map(|found| found.mask.clone());
        status.secret = holds.map(|_| reference(observed, secret));
    } else if matches!(secret, SecretView::Absent | SecretView::Foreign | SecretView::Orphaned) {
        status.digest = None;
        status.key = None;
        status.secret = None;
    }
}

/// The digest of a key at an authority stays on record without a Secret, because the key there stays too.
fn copy_remote_key(status: &mut SetupKeyStatus, observed: Observed<'_>) {
    if let (SecretView::Owned(secret), Some(_)) = (observed.secret, &observed.key.spec.authority_ref)
        && let Some(found) = secret.holds.as_ref().filter(|_| holds_the_key(observed, secret))
    {
        status.digest = Some(found.digest.to_string());
        status.key = Some(found.mask.clone());
    }
}

/// The Secret that holds a key at an authority.
fn refer_to_secret(status: &mut SetupKeyStatus, observed: Observed<'_>) {
    let is_replacing = status.authority.as_ref().is_some_and(|there| there.standing == KeyStanding::Replacing);
    match observed.secret {
        SecretView::Owned(secret) if holds_the_key(observed, secret) => {
            status.secret = Some(reference(observed, secret));
        }
        // Which data keys are ours must be known when the next key is written.
        SecretView::Owned(_) if is_replacing => {}
        SecretView::Owned(_) => status.secret = None,
        SecretView::Absent | SecretView::Foreign | SecretView::Orphaned => status.secret = None,
        SecretView::Unread | SecretView::Unchanged => {}
    }
}

fn reference(observed: Observed<'_>, secret: &OwnedSecret) -> SecretReference {
    let key = observed.key;
    let wanted = WantedData::of(key, observed.authority);
    let (management_url_key, management_url) = secret.our_url(key, wanted).unzip();
    SecretReference {
        name: key.secret_name().to_owned(),
        key: key.secret_key().to_owned(),
        resource_version: secret.resource_version.clone(),
        aliases: secret.our_aliases(key, wanted),
        management_url_key,
        management_url: management_url.flatten(),
    }
}
