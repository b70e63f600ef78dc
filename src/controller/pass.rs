//! One pass over one key: look, ask the planner, do what it says, ask again.

mod at_authority;

use std::{borrow::Cow, collections::BTreeSet, sync::Arc};

use kube::{Api, ResourceExt};

use super::{
    authorities::Link,
    context::Context,
    error::Error,
    observe,
    retry::Versions,
    watch::SecretMetadata,
    write::{self, SecretWrite},
};
use crate::{
    api::{PreviousKey, SetupKey, SetupKeyStatus},
    authority::in_cluster,
    cluster::{
        ObjectName,
        call::{self, Attempt, call},
    },
    key::{
        KeyId,
        data_keys::WantedData,
        ledger::{Swap, Use},
        mirror::groups,
        plan::{Observed, Step, Until, plan},
        record::{Freshness, Persistence, Rehearsal, Standing, Subject, Trouble, fits_the_record, without_record},
        remote::AuthorityView,
        rotation::reason_of,
        secret::{DataPatch, OwnedSecret, SecretView, SentKey},
        transition::{Cause, Notice, Related, Severity, is_rotation, notices},
    },
    plain::plain,
};

/// More steps than any way from any state to a settled one takes.
const MOST_STEPS: usize = 20;

/// So many passes over a key fail in a row before the failure is reported: a retry may cure what has only just begun.
const PASSING: u32 = 3;

/// So many times a pass tries to record the key that it has put into the Secret, when others change the status meanwhile.
const MOST_CONFLICTS: u32 = 8;

/// The longest part of an API server's message that is passed on.
const LONGEST_MESSAGE: usize = 800;

/// A pass under way, and everything that it has seen so far.
pub struct Pass<'a> {
    context: &'a Context,
    /// As it is stored.
    pub key: Cow<'a, SetupKey>,
    standing: Standing,
    /// The key without its record, if another writer has altered that.
    without_record: Option<SetupKey>,
    freshness: Freshness,
    cached_secret: Option<SecretMetadata>,
    /// The Secret, as this pass has seen it last.
    pub secret: SecretView,
    /// The version of the Secret, from the cache or from our own last write.
    secret_version: Option<String>,
    trouble: Option<Trouble>,
    rehearsal: Option<Rehearsal>,
    counted: Option<i64>,
    abandoned: BTreeSet<Use>,
    peers_created: bool,
    /// Whether a write has met another version of the Secret.
    outdated: bool,
    /// How many times a key that this pass has put into the Secret met another version of the status.
    conflicts: u32,
    /// How many passes have failed in a row before this one.
    failures: u32,
    /// An error that did not end the pass, because other steps do not depend on it.
    error: Option<Error>,
    /// Why the record changes, if it does.
    cause: Cause,
    /// The authority of the key, as this pass has seen it last.
    authority: AuthorityView,
    link: Option<Arc<Link>>,
    /// Whether this pass has read the key on record at the authority.
    confirmed_there: bool,
    /// Whether this pass has listed the groups of the authority.
    listed_groups: bool,
    /// The id on record when this pass began.
    knew: Option<String>,
    /// The key that this pass has created at the authority, as long as no status has its id.
    issued: Option<KeyId>,
}

impl<'a> Pass<'a> {
    /// A pass that begins with these caches.
    pub fn new(
        context: &'a Context,
        key: &'a SetupKey,
        cached_secret: Option<SecretMetadata>,
        abandoned: BTreeSet<Use>,
        failures: u32,
    ) -> Self {
        let mut pass = Self {
            context,
            key: Cow::Borrowed(key),
            standing: Standing::Kept,
            without_record: None,
            freshness: Freshness::Cached,
            secret_version: cached_secret.as_ref().and_then(|secret| secret.metadata.resource_version.clone()),
            cached_secret,
            secret: SecretView::Unread,
            trouble: None,
            rehearsal: None,
            counted: None,
            abandoned,
            peers_created: false,
            outdated: false,
            conflicts: 0,
            failures,
            error: None,
            cause: Cause::SecretChanged,
            authority: AuthorityView::Cluster,
            link: None,
            confirmed_there: false,
            listed_groups: false,
            knew: key.status.as_ref().and_then(|status| status.id.clone()),
            issued: None,
        };
        pass.believe();
        pass.look_at_authority();
        pass
    }

    fn observed(&self) -> Observed<'_> {
        Observed {
            key: self.trusted(),
            stored: &self.key,
            freshness: self.freshness,
            secret: &self.secret,
            trouble: self.trouble.as_ref(),
            rehearsal: self.rehearsal,
            counted: self.counted,
            abandoned: &self.abandoned,
            peers_created: self.peers_created,
            authority: &self.authority,
            retried: self.failures > 0,
        }
    }

    /// The key, as far as its status can be believed.
    fn trusted(&self) -> &SetupKey {
        self.without_record.as_ref().unwrap_or(&self.key)
    }

    /// The data keys that are written together with another setup key.
    fn data_with_new_key(&self) -> DataPatch {
        let key = self.trusted();
        let wanted = WantedData::of(key, &self.authority);
        match &self.secret {
            SecretView::Owned(secret) => secret.data_with_new_key(key, wanted),
            _ => wanted.in_new_secret(),
        }
    }

    /// The versions that this pass has seen last.
    pub fn seen(&self) -> Versions {
        (self.key.metadata.resource_version.clone(), self.secret_version.clone())
    }

    /// Makes the pass.
    pub async fn run(&mut self) -> Result<Until, Error> {
        self.look().await;
        for _ in 0..MOST_STEPS {
            let client = &self.context.client;
            match plan(self.observed(), self.context.clock.now()) {
                Step::Wait(until) => {
                    if matches!(groups(self.observed()), Some(Err(_)))
                        && let Some(link) = &self.link
                    {
                        link.misses_group(self.key.metadata.uid.as_deref().unwrap_or_default());
                    }
                    if self.standing == Standing::Altered && self.trouble.is_none() {
                        // Compared with the Secret, and found to be true.
                        self.context.records.wrote(&self.key);
                    }
                    return self.error.take().map_or(Ok(until), Err);
                }
                Step::Confirm => self.confirm().await?,
                Step::CountPeers(id) => match observe::count_peers(client, &self.key, &id).await {
                    Ok(counted) => self.counted = Some(counted),
                    Err(error) => self.failed(Subject::Peers, error),
                },
                Step::CreateSecret(issue) => {
                    let minted = in_cluster::mint(&issue)?;
                    let end = write::create_secret(client, &self.key, &minted, &self.data_with_new_key()).await;
                    self.secret_written(end).await?;
                }
                Step::RehearseReplacement(issue) => {
                    let SecretView::Owned(secret) = &self.secret else { continue };
                    let minted = in_cluster::mint(&issue)?;
                    let data = self.data_with_new_key();
                    let end = write::rehearse_replacement(client, &self.key, secret, &minted, &data).await;
                    self.rehearsed(end).await?;
                }
                Step::ReplaceKey(issue) => {
                    let SecretView::Owned(secret) = &self.secret else { continue };
                    let (minted, data) = (in_cluster::mint(&issue)?, self.data_with_new_key());
                    let end = write::replace_key(client, &self.key, secret, &minted, &data).await;
                    self.secret_written(end).await?;
                }
                Step::Restore(changes) => {
                    let SecretView::Owned(secret) = &self.secret else { continue };
                    let end = write::restore(client, &self.key, secret, &changes).await;
                    self.secret_written(end).await?;
                }
                Step::WriteStatus(status) => self.write_status(&status).await?,
                Step::CreatePeers => self.create_peers().await,
                Step::ClearEntries(swap) => self.clear_entries(&swap).await,
                Step::AddFinalizer => self.set_finalizer(true).await?,
                Step::RemoveFinalizer(release) => {
                    self.release(release).await?;
                    return Ok(Until::Change);
                }
                Step::ListGroups => self.list_groups().await,
                Step::CreateGroup(name) => self.create_group(&name).await,
                Step::ConfirmThere(id) => self.confirm_there(&id).await,
                Step::UpdateThere { id, revoked, groups } => self.update_there(&id, revoked, &groups).await,
                Step::DeleteThere(id) => self.delete_there(&id).await,
                Step::RehearseSecret => self.rehearse_secret().await?,
                Step::IssueThere(new) => self.issue_there(&new).await?,
            }
        }
        Err(Error::Unsettled(MOST_STEPS))
    }

    /// Looks at the Secret: in the cache, and at the API server if that is not enough.
    async fn look(&mut self) {
        match observe::in_cache(self.trusted(), &self.authority, self.cached_secret.as_ref(), self.context.clock.now())
        {
            Some(SecretView::Unchanged) if self.standing == Standing::Disputed => self.read_secret().await,
            Some(secret) => self.secret = secret,
            None => self.read_secret().await,
        }
    }

    async fn read_secret(&mut self) {
        match observe::live(&self.context.client, &self.key, self.cached_secret.as_ref()).await {
            Ok(secret) => {
                self.secret = secret;
                self.compare_with_other_keys();
            }
            Err(error) => {
                self.secret = SecretView::Unread;
                self.failed(Subject::Secret, error);
            }
        }
    }

    /// Finds out whether the key in our Secret stands on record for another `SetupKey`.
    fn compare_with_other_keys(&mut self) {
        self.context.records.compared(&self.key);
        let SecretView::Owned(secret) = &mut self.secret else { return };
        let Some(found) = &secret.holds else { return };
        let key = self.without_record.as_ref().unwrap_or(&self.key);
        let is_adopted = key.status.as_ref().is_none_or(|status| status.digest.is_none());
        if is_adopted && !self.context.records.are_complete() {
            let why = Error::NotListed.to_string();
            self.secret = SecretView::Unread;
            self.trouble = Some(Trouble { with: Subject::Secret, persistence: self.persistence(), why });
            self.error = Some(Error::NotListed);
            return;
        }
        let Some(rival) = self.context.records.rival(key, &found.digest) else { return };
        secret.belongs_to_another = true;
        self.cause = Cause::TakenFromAnother;
        let ObjectName { namespace, name } = ObjectName::of(key);
        tracing::warn!(
            namespace,
            name,
            on_record_for = format!("{}/{}", rival.namespace, rival.name),
            "the Secret holds the key of another SetupKey; it gets a new key"
        );
    }

    /// Notes trouble. It goes into the report: at once if the API server refuses, else once it has lasted.
    fn failed(&mut self, with: Subject, error: call::Error) {
        if let Some(why) = error.refusal() {
            self.trouble = Some(Trouble { with, persistence: Persistence::Refused, why: shortened(why) });
            return;
        }
        let why = shortened(&error.why());
        self.trouble = Some(Trouble { with, persistence: self.persistence(), why });
        self.error = Some(error.into());
    }

    fn persistence(&self) -> Persistence {
        if self.failures < PASSING { Persistence::Passing } else { Persistence::Lasting }
    }

    async fn secret_written(&mut self, end: Result<SecretWrite, call::Error>) -> Result<(), Error> {
        if let Some(stored) = self.stored(end).await? {
            self.context.wrote_secret(&self.key, &stored.resource_version);
            self.secret_version = Some(stored.resource_version.clone());
            self.secret = SecretView::Owned(stored);
        }
        Ok(())
    }

    async fn rehearsed(&mut self, end: Result<SecretWrite, call::Error>) -> Result<(), Error> {
        if let Some(would_be_stored) = self.stored(end).await? {
            let altered = would_be_stored.was_altered();
            self.rehearsal = Some(if altered { Rehearsal::Altered } else { Rehearsal::Kept });
        }
        Ok(())
    }

    /// What a write has stored. `None` if it has not, which is noted.
    async fn stored(&mut self, end: Result<SecretWrite, call::Error>) -> Result<Option<OwnedSecret>, Error> {
        match end {
            Ok(SecretWrite::Stored(stored)) => return Ok(Some(*stored)),
            Ok(SecretWrite::Refused(why)) => {
                let why = shortened(&why);
                self.trouble = Some(Trouble { with: Subject::Secret, persistence: Persistence::Refused, why });
            }
            Ok(SecretWrite::Outdated(_)) if !self.outdated => {
                self.outdated = true;
                self.freshness = Freshness::Cached;
                self.read_secret().await;
            }
            // Twice in one pass: another writer is active. The next try is worth a pause.
            Ok(SecretWrite::Outdated(error)) => return Err(error.into()),
            Err(error) => self.failed(Subject::Secret, error),
        }
        Ok(None)
    }

    /// Reads the `SetupKey` from the API server. If it has changed, the Secret is looked at again.
    async fn confirm(&mut self) -> Result<(), Error> {
        let ObjectName { namespace, name } = ObjectName::of(&*self.key);
        let keys: Api<SetupKey> = Api::namespaced(self.context.client.clone(), &namespace);
        let found = call(Attempt::on("read SetupKey", &namespace, &name), keys.get(&name)).await?;
        // A key at an authority may be in the Secret already, and not in the status yet.
        let changed = found.metadata.resource_version != self.key.metadata.resource_version
            || found.spec.authority_ref.is_some() && found.metadata.deletion_timestamp.is_none();
        if found.uid() != self.key.uid() {
            self.abandoned.clear(); // They are another key's.
        }
        self.key = Cow::Owned(found);
        self.believe();
        self.look_at_authority();
        self.freshness = Freshness::Confirmed;
        if changed {
            self.read_secret_again().await;
        }
        Ok(())
    }

    /// Reads the Secret. If it is still the one that this pass has written, that is not forgotten, unless it was decided on a
    /// version of the `SetupKey` that had another key on record.
    async fn read_secret_again(&mut self) {
        let before = std::mem::replace(&mut self.secret, SecretView::Unread);
        self.read_secret().await;
        let fits = |sent: &SentKey| fits_the_record(self.trusted(), sent, self.context.clock.now());
        if let (SecretView::Owned(before), SecretView::Owned(secret)) = (before, &self.secret)
            && before.resource_version == secret.resource_version
            && before.sent_and_stored().is_none_or(fits)
        {
            let written = before.written;
            if let SecretView::Owned(secret) = &mut self.secret {
                secret.written = written;
            }
        }
    }

    /// Asks what the record of the key is worth, after the key was read.
    fn believe(&mut self) {
        self.standing = self.context.records.standing(&self.key);
        let is_known = |replaced: &PreviousKey| self.context.records.vouch_for(&self.key, replaced);
        self.without_record = (self.standing == Standing::Altered).then(|| without_record(&self.key, is_known));
    }

    async fn write_status(&mut self, status: &SetupKeyStatus) -> Result<(), Error> {
        self.context.records.sending(&self.key, status);
        let written = match write::write_status(&self.context.client, &self.key, status).await {
            Ok(written) => written,
            Err(error) if error.code() == Some(409) && self.holds_an_unrecorded_key() => {
                self.conflicts += 1;
                return self.confirm().await;
            }
            Err(error) => {
                self.report_unwritten("status", &error);
                if let Some(id) = self.issued.take().filter(|_| error.code() == Some(404)) {
                    self.discard(&id).await;
                }
                return Err(error.into());
            }
        };
        if status.id != self.key.status.as_ref().and_then(|status| status.id.clone()) {
            self.issued = None;
        }
        self.context.wrote_key(&written);
        self.context.records.wrote(&written);
        let cause = if self.standing == Standing::Altered { Cause::RecordAltered } else { self.cause };
        if cause != Cause::RecordAltered {
            self.count_rotation(status);
        }
        for notice in notices(&self.key, status, cause, self.context.clock.now()) {
            self.context.notifier.notify(&written, notice);
        }
        self.key = Cow::Owned(written);
        (self.standing, self.without_record) = (Standing::Kept, None);
        self.freshness = Freshness::Confirmed;
        Ok(())
    }

    fn count_rotation(&self, after: &SetupKeyStatus) {
        if let Some(before) = &self.key.status
            && is_rotation(before, after)
        {
            self.context.metrics.rotated(reason_of(&self.key, before, after));
        }
    }

    /// Whether this pass has put a key into the Secret that is not on record, and may still try to record it. Machines that
    /// join change the status all the time, and the next pass would put another key there.
    fn holds_an_unrecorded_key(&self) -> bool {
        let SecretView::Owned(secret) = &self.secret else { return false };
        secret.sent_and_stored().is_some() && self.conflicts < MOST_CONFLICTS
    }

    /// A condition cannot say that the status cannot be written, so an event does: once, when it has lasted.
    fn report_unwritten(&self, what: &str, error: &call::Error) {
        if self.failures != PASSING || matches!(error.code(), Some(404 | 409)) {
            return;
        }
        let message = format!("The {what} cannot be written: {}", shortened(&error.why()));
        let notice = Notice {
            severity: Severity::Warning,
            reason: "StatusFailed",
            action: "WriteStatus",
            message,
            related: Related::Secret,
        };
        self.context.notifier.notify(&self.key, notice);
    }

    async fn create_peers(&mut self) {
        let entries = self.key.pending().iter().filter(|entry| self.abandoned.contains(&Use::of(entry)));
        match write::create_peers(&self.context.client, &self.key, entries).await {
            Ok(()) => self.peers_created = true,
            Err(error) => self.abandon_handover(error),
        }
    }

    async fn clear_entries(&mut self, swap: &Swap) {
        let written = match write::clear_entries(&self.context.client, &self.key, swap).await {
            Ok(written) => written,
            Err(error) => return self.abandon_handover(error),
        };
        let count = self.key.pending().len() - swap.pending.len();
        self.context.wrote_key(&written);
        self.context.metrics.rolled_forward(count);
        let ObjectName { namespace, name } = ObjectName::of(&written);
        tracing::info!(namespace, name, count, "completed enrollments that their replica had abandoned");
        self.key = Cow::Owned(written);
    }

    /// The entries wait for the next pass. The rest of this one does not depend on them.
    fn abandon_handover(&mut self, error: call::Error) {
        self.abandoned.clear();
        self.error = Some(error.into());
    }
}

/// A message that fits into a condition and an event.
pub fn shortened(message: &str) -> String {
    // Escapes make it longer.
    let message = plain(message);
    match message.char_indices().nth(LONGEST_MESSAGE) {
        Some((end, _)) => format!("{}…", &message[..end]),
        None => message.into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_message_is_cut_between_characters() {
        assert_eq!(shortened("exceeded quota"), "exceeded quota");
        let cut = shortened(&"ü".repeat(LONGEST_MESSAGE + 1));
        assert_eq!(cut.chars().count(), LONGEST_MESSAGE + 1);
        assert!(cut.ends_with('…'));
    }
}
