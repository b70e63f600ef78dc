//! The steps of a pass that call the authority of the key.

use std::{borrow::Cow, collections::BTreeSet};

use super::{Pass, shortened};
use crate::{
    authority::{Minted, in_cluster, netbird},
    cluster::ObjectName,
    controller::{
        error::Error,
        write::{self, SecretWrite},
    },
    key::{
        KeyId,
        plan::authority::Release,
        record::{Freshness, Issue, Persistence, Subject, Trouble},
        remote::{AuthorityView, GroupId, NewKey, OutOfReach},
        secret::SecretView,
        transition::{Notice, Related, Severity},
    },
};

impl Pass<'_> {
    /// Looks at what is known of the authority now.
    pub(super) fn look_at_authority(&mut self) {
        let (view, link) = self.context.authorities.view(&self.key);
        (self.authority, self.link) = (view, link);
        if let AuthorityView::Reached(reached) = &mut self.authority {
            reached.groups_are_fresh = self.listed_groups;
            if self.confirmed_there {
                reached.freshness = Freshness::Confirmed;
            }
        }
    }

    pub(super) async fn set_finalizer(&mut self, present: bool) -> Result<(), Error> {
        let written = match write::set_finalizer(&self.context.client, &self.key, present).await {
            Ok(written) => written,
            Err(error) => {
                self.report_unwritten("finalizer", &error);
                return Err(error.into());
            }
        };
        if present {
            self.context.wrote_key(&written);
        }
        self.key = Cow::Owned(written);
        self.believe();
        self.freshness = Freshness::Confirmed;
        Ok(())
    }

    /// Takes the finalizer off, and says what is left at the authority, if something is. It is said first, because after a
    /// crash there is no object any more to say it of.
    pub(super) async fn release(&mut self, release: Release) -> Result<(), Error> {
        if let Some(notice) = self.left_there(release) {
            self.context.notifier.notify(&self.key, notice);
        }
        self.set_finalizer(false).await
    }

    fn left_there(&self, release: Release) -> Option<Notice> {
        let current = self.key.status.as_ref()?.id.as_deref()?;
        let replaced = self.key.previous().iter().map(|replaced| replaced.id.as_str());
        let ids = std::iter::once(current).chain(replaced).collect::<Vec<_>>();
        let (keys, them) = match ids.as_slice() {
            [id] => (format!("key {id}"), "it"),
            ids => (format!("keys {}", ids.join(", ")), "them"),
        };
        let reference = self.key.spec.authority_ref.as_ref()?;
        let authority = format!("{:?} {:?}", reference.kind, reference.name);
        let (severity, reason, message) = match release {
            Release::Deleted => return None,
            Release::Retained => (
                Severity::Normal,
                "KeyRetained",
                format!("deletionPolicy leaves {keys} at {authority}, where peers may join until the expiry"),
            ),
            Release::LeftBehind => (
                Severity::Warning,
                "KeyLeftBehind",
                format!(
                    "{authority} is gone, so {keys} could not be deleted there and may still admit peers. Delete {them} at NetBird"
                ),
            ),
        };
        Some(Notice { severity, reason, action: "Delete", message, related: Related::Authority })
    }

    pub(super) async fn list_groups(&mut self) {
        let Some(link) = self.link.clone() else { return };
        let listed = link.list_groups().await;
        self.listed_groups = listed.is_ok();
        self.called("list the groups", listed);
    }

    pub(super) async fn create_group(&mut self, name: &str) {
        let Some(link) = self.link.clone() else { return };
        self.called("create a group", link.create_group(name).await);
    }

    pub(super) async fn confirm_there(&mut self, id: &KeyId) {
        let Some(link) = self.link.clone() else { return };
        let read = link.read(&self.uid(), id).await;
        self.confirmed_there = read.is_ok();
        self.called("read the key", read);
    }

    pub(super) async fn update_there(&mut self, id: &KeyId, revoked: bool, groups: &BTreeSet<GroupId>) {
        let Some(link) = self.link.clone() else { return };
        self.called("update the key", link.update(&self.uid(), id, revoked, groups).await);
    }

    pub(super) async fn delete_there(&mut self, id: &KeyId) {
        let Some(link) = self.link.clone() else { return };
        if !self.context.leads() {
            return self.resigned();
        }
        let deleted = link.delete(&self.uid(), id).await;
        if deleted.is_ok() && self.knew.as_ref().is_none_or(|knew| knew != id.as_str()) {
            self.context.metrics.authorities().leftover_removed(&link.name.to_string());
            let ObjectName { namespace, name } = ObjectName::of(&*self.key);
            tracing::info!(namespace, name, %id, authority = %link.name, "deleted a key that was left over");
        }
        if deleted.is_err() && link.is_gone() {
            // Nothing is left to try.
            self.authority = AuthorityView::OutOfReach(OutOfReach::NotFound);
            return;
        }
        self.called("delete the key", deleted);
    }

    /// Tries by a dry run whether the Secret can be written, with a value that is used for nothing else.
    pub(super) async fn rehearse_secret(&mut self) -> Result<(), Error> {
        let expires = self.context.clock.now().into();
        let minted = in_cluster::mint(&Issue { id: None, expires })?;
        let (client, data) = (&self.context.client, self.data_with_new_key());
        let end = match &self.secret {
            SecretView::Owned(secret) => write::rehearse_replacement(client, &self.key, secret, &minted, &data).await,
            SecretView::Unchanged => {
                self.read_secret().await;
                return Ok(());
            }
            _ => write::rehearse_creation(client, &self.key, &minted, &data).await,
        };
        self.rehearsed(end).await
    }

    /// Creates a key at the authority and puts its value into the Secret.
    ///
    /// If the Secret is refused, the key is deleted at once. If it is not known whether the Secret was written, the key stays:
    /// the next pass sees which of the two it is.
    pub(super) async fn issue_there(&mut self, new: &NewKey) -> Result<(), Error> {
        let Some(link) = self.link.clone() else { return Ok(()) };
        if !self.context.leads() {
            self.resigned();
            return Ok(());
        }
        let (there, value) = match link.create(&self.uid(), new).await {
            Ok(created) => created,
            Err(error) => {
                self.called("create a key", Err(error));
                return Ok(());
            }
        };
        let expires = there.expires.unwrap_or_else(|| self.context.clock.now().into());
        let minted = Minted { id: there.id.clone(), value, expires };
        self.look_at_authority();
        let (client, data) = (&self.context.client, self.data_with_new_key());
        let end = match &self.secret {
            SecretView::Owned(secret) => write::replace_key(client, &self.key, secret, &minted, &data).await,
            _ => write::create_secret(client, &self.key, &minted, &data).await,
        };
        let unused = match &end {
            Ok(SecretWrite::Stored(stored)) => stored.was_altered(),
            Ok(SecretWrite::Refused(_) | SecretWrite::Outdated(_)) => true,
            Err(_) => false,
        };
        let written = self.secret_written(end).await;
        self.issued = Some(there.id.clone());
        if unused || !self.context.leads() {
            self.discard(&there.id).await;
        }
        written
    }

    /// Deletes a key that this pass has created, and that is of no use.
    pub(super) async fn discard(&mut self, id: &KeyId) {
        let Some(link) = self.link.clone() else { return };
        if let Err(error) = link.delete(&self.uid(), id).await {
            // The next list shows it, and it is deleted then.
            tracing::warn!(%id, authority = %link.name, %error, "a key that is of no use is still at the authority");
        }
        self.issued = None;
        self.look_at_authority();
    }

    fn uid(&self) -> String {
        self.key.metadata.uid.clone().unwrap_or_default()
    }

    /// Another process may lead now, and this one is ending.
    fn resigned(&mut self) {
        self.authority = AuthorityView::OutOfReach(OutOfReach::NotListed);
    }

    /// Notes how a call has ended, and looks at what is known now.
    ///
    /// The call may have taken long, and this process may have been stopped meanwhile. So nothing that was read before it is
    /// good enough to delete a key, or to issue one.
    fn called(&mut self, attempt: &'static str, end: Result<(), netbird::Error>) {
        self.freshness = Freshness::Cached;
        self.look_at_authority();
        let Err(error) = end else { return };
        if !matches!(self.authority, AuthorityView::Reached(_)) {
            // The link says why, and the key waits for it.
            return;
        }
        let refused = error.reason().is_none();
        let persistence = if refused { Persistence::Refused } else { self.persistence() };
        self.trouble = Some(Trouble { with: Subject::Authority, persistence, why: shortened(&error.to_string()) });
        if !refused {
            let authority = self.link.as_ref().map(|link| link.name.to_string()).unwrap_or_default();
            self.error = Some(Error::Authority { attempt, authority, source: error });
        }
    }
}
