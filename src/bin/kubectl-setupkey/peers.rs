//! `kubectl setupkey peers`.

use std::process::ExitCode;

use chrono::{DateTime, TimeDelta, Utc};
use kube::{
    ResourceExt,
    api::ListParams,
    core::{DeserializeGuard, error_boundary::InvalidObject},
};
use schemars::JsonSchema;
use serde::Serialize;
use setupkey_operator::{
    api::{Lifetime, Peer, PendingPeer, SetupKey, Timestamp, metadata::KEY_LABEL},
    cluster::ObjectName,
};

use crate::{
    failure::Failure,
    flags::{self, Connection, Format, Output},
    management,
    print::Printer,
    session::Session,
    table::{Cell, NOTHING, Table, Tone},
    words,
};

/// List the Peers that have joined with a key, also once its SetupKey is deleted.
#[derive(clap::Args)]
#[command(after_help = "With kubectl alone:\n  kubectl get peers.setupkey.dev -l setupkey.dev/key=NAME")]
pub struct Flags {
    /// Name of the SetupKey.
    #[arg(value_name = "NAME", value_parser = flags::name)]
    name: String,

    /// Only Peers that were not seen for so long, such as 7d.
    #[arg(long, value_name = "TIME", value_parser = flags::time)]
    stale: Option<Lifetime>,

    #[command(flatten)]
    output: Output,
}

/// The Peers of a key, as scripts read them.
#[derive(JsonSchema, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PeerList {
    /// The Peers, in the order of the table.
    pub peers: Vec<Row>,
}

/// A Peer, as it is at this moment.
#[derive(JsonSchema, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Row {
    /// The namespace of the Peer.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The name that the machine gave itself.
    pub hostname: String,
    /// The groups that it joined.
    pub groups: Vec<String>,
    /// Whether it was seen lately; null until the operator has reported.
    pub connected: Option<bool>,
    /// When it was last seen, to within minutes.
    pub last_seen: Option<Timestamp>,
    /// Which key it joined with.
    pub revision: Revision,
    /// The public id of that key.
    pub key_id: String,
    /// Whether it is removed once it is not seen for a while.
    pub ephemeral: bool,
    /// The DNS labels that it brought.
    pub extra_dns_labels: Vec<String>,
    /// When it joined.
    pub joined: Option<Timestamp>,
}

/// Which key of a `SetupKey` a Peer joined with.
#[derive(Clone, Copy, Debug, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Revision {
    /// The one that is in the Secret now.
    Current,
    /// One that was replaced and may still admit machines.
    Previous,
    /// One that was replaced and admits no machine any more.
    Older,
    /// One of a `SetupKey` that is deleted. Another one can have its name by now.
    Deleted,
}

/// Lists the Peers.
pub async fn run(flags: Flags, connection: &Connection, printer: &Printer) -> Result<ExitCode, Failure> {
    let session = Session::start(connection)?;
    let (now, name) = (session.now(), ObjectName::new(&session.namespace, &flags.name));
    let key = session.keys.get(&name).await?;
    let peers = of_key(&session, &name, printer).await?;
    let key = match key {
        None if peers.is_empty() => Some(session.key(&flags.name).await?),
        None => {
            printer.note(&format!("SetupKey {name} is deleted. These are the Peers that have joined with it."));
            None
        }
        key => key,
    };
    if let Some(authority) = key.as_ref().and_then(|key| key.spec.authority_ref.as_ref()) {
        let place = match management::url(&session, authority).await {
            Ok(url) => url,
            Err(_) => format!("the one of {:?} {}", authority.kind, authority.name),
        };
        let sentence = format!("the peers of SetupKey {name} are at NetBird, and not in this cluster: see {place}");
        if peers.is_empty() {
            return Err(Failure::new(sentence));
        }
        printer.note(&format!("These have joined with an earlier SetupKey of this name: {sentence}."));
    }
    let all = peers.len();
    let mut rows: Vec<_> = peers.iter().map(|peer| Row::of(peer, key.as_ref())).collect();
    rows.retain(|row| flags.stale.is_none_or(|span| row.is_stale(span, now)));
    rows.sort_by(|a, b| (&a.hostname, &a.name).cmp(&(&b.hostname, &b.name)));
    match flags.output.output {
        Format::Json => printer.json(&PeerList { peers: rows })?,
        Format::Yaml => printer.yaml(&PeerList { peers: rows })?,
        Format::Name => {
            let names: String = rows.iter().map(|row| format!("peer.setupkey.dev/{}\n", row.name)).collect();
            printer.print(&names)?;
        }
        Format::Table | Format::Wide if rows.is_empty() => printer.note(&match flags.stale {
            Some(span) if all > 0 => format!(
                "Every Peer of SetupKey {name} was seen within {}.",
                words::span(TimeDelta::seconds(span.as_secs().cast_signed()))
            ),
            _ => format!("No Peer has joined with SetupKey {name}."),
        }),
        form => printer.print(&table(&rows, form, flags.output.no_headers, now))?,
    }
    // An entry can outlive the creation of its Peer for a moment.
    let is_pending = |entry: &&PendingPeer| peers.iter().all(|peer| peer.metadata.name.as_ref() != Some(&entry.name));
    let pending = key.as_ref().map_or(0, |key| key.pending().iter().filter(is_pending).count());
    if pending > 0 {
        printer.note(&format!("Machines that are admitted and have no Peer yet: {pending}."));
    }
    Ok(ExitCode::SUCCESS)
}

/// The Peers of a key. One that cannot be decoded is told of, and hides no other.
async fn of_key(session: &Session, name: &ObjectName, printer: &Printer) -> Result<Vec<Peer>, Failure> {
    let labels = ListParams::default().labels(&format!("{KEY_LABEL}={}", name.name));
    let listed = session.keys.list_of::<DeserializeGuard<Peer>>("Peers", Some(&name.namespace), labels).await?;
    let mut peers = Vec::with_capacity(listed.len());
    for DeserializeGuard(peer) in listed {
        match peer {
            Ok(peer) => peers.push(peer),
            Err(InvalidObject { error, metadata }) => {
                let name = ObjectName::from(&metadata);
                printer.warn(&format!("Peer {name} is left out, because it cannot be read: {error}"));
            }
        }
    }
    Ok(peers)
}

impl Row {
    fn of(peer: &Peer, key: Option<&SetupKey>) -> Self {
        let (spec, status) = (&peer.spec, peer.status.as_ref());
        Self {
            namespace: peer.namespace().unwrap_or_default(),
            name: peer.name_any(),
            hostname: spec.hostname.clone(),
            groups: spec.groups.clone(),
            connected: status.map(|status| status.connected),
            last_seen: status.and_then(|status| status.last_seen),
            revision: Revision::of(peer, key),
            key_id: spec.setup_key_ref.id.clone(),
            ephemeral: spec.ephemeral,
            extra_dns_labels: spec.extra_dns_labels.clone(),
            joined: peer.metadata.creation_timestamp.as_ref().map(Timestamp::from),
        }
    }

    /// Whether it was not seen for so long. A Peer that was never seen counts from the moment it joined.
    fn is_stale(&self, span: Lifetime, now: DateTime<Utc>) -> bool {
        let seen = self.last_seen.or(self.joined);
        seen.is_none_or(|seen| seen.plus_seconds(span.as_secs()).moment() <= now)
    }
}

impl Revision {
    fn of(peer: &Peer, key: Option<&SetupKey>) -> Self {
        let joined_with = &peer.spec.setup_key_ref;
        let Some(key) = key.filter(|key| key.metadata.uid.as_ref() == Some(&joined_with.uid)) else {
            return Revision::Deleted;
        };
        let current = key.status.as_ref().and_then(|status| status.id.as_ref());
        if current == Some(&joined_with.id) {
            Revision::Current
        } else if key.previous().iter().any(|previous| previous.id == joined_with.id) {
            Revision::Previous
        } else {
            Revision::Older
        }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Revision::Current => "current",
            Revision::Previous => "previous",
            Revision::Older => "older",
            Revision::Deleted => "deleted",
        }
    }
}

fn table(rows: &[Row], form: Format, no_headers: bool, now: DateTime<Utc>) -> String {
    let mut columns = vec!["NAME", "HOSTNAME", "GROUPS", "CONNECTED", "LAST SEEN", "REVISION", "AGE"];
    if form == Format::Wide {
        columns.extend(["EPHEMERAL", "KEY ID", "DNS LABELS"]);
    }
    let mut table = Table::new(&columns, no_headers);
    for row in rows {
        let since = |moment| words::since_if_any(moment, now);
        let mut cells: Vec<Cell> = vec![
            row.name.as_str().into(),
            row.hostname.as_str().into(),
            listed(&row.groups).into(),
            match row.connected {
                None => NOTHING.into(),
                Some(true) => Cell::new("yes", Tone::Good),
                Some(false) => Cell::new("no", Tone::Warn),
            },
            since(row.last_seen).into(),
            row.revision.as_str().into(),
            since(row.joined).into(),
        ];
        if form == Format::Wide {
            cells.push(if row.ephemeral { "yes" } else { "no" }.into());
            cells.push(row.key_id.as_str().into());
            cells.push(listed(&row.extra_dns_labels).into());
        }
        table.push(cells);
    }
    table.render()
}

fn listed(names: &[String]) -> String {
    if names.is_empty() { NOTHING.to_owned() } else { names.join(",") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn peer(uid: &str, id: &str) -> Peer {
        serde_json::from_value(json!({
            "apiVersion": "setupkey.dev/v1alpha1", "kind": "Peer",
            "metadata": { "name": "peer-a", "namespace": "network", "creationTimestamp": "2026-11-01T00:00:00Z" },
            "spec": {
                "publicKey": "", "hostname": "h", "tokenDigest": "",
                "setupKeyRef": { "name": "office", "uid": uid, "id": id, "use": 1 },
            },
        }))
        .unwrap()
    }

    #[test]
    fn a_peer_belongs_to_the_key_with_its_id_and_uid() {
        let previous = json!({
            "id": "second", "digest": "", "key": "", "expires": "2026-11-24T06:00:00Z", "admitsUntil": "2026-11-24T06:00:00Z",
        });
        let key: SetupKey = serde_json::from_value(json!({
            "apiVersion": "setupkey.dev/v1alpha1", "kind": "SetupKey", "metadata": { "name": "office", "uid": "u" },
            "spec": {}, "status": { "id": "third", "previous": [previous] },
        }))
        .unwrap();
        for (uid, id, revision) in [
            ("u", "third", Revision::Current),
            ("u", "second", Revision::Previous),
            ("u", "first", Revision::Older),
            ("v", "third", Revision::Deleted),
        ] {
            assert_eq!(Revision::of(&peer(uid, id), Some(&key)), revision, "{uid} {id}");
        }
        assert_eq!(Revision::of(&peer("u", "third"), None), Revision::Deleted);
    }

    #[test]
    fn a_peer_is_stale_from_its_last_sign_on() {
        let mut row = Row::of(&peer("u", "third"), None);
        let (joined, week) = (row.joined.unwrap(), Lifetime::hours(7 * 24));
        let after = |seconds: u64| joined.plus_seconds(7 * 86_400).plus_seconds(seconds).moment();
        assert!(!row.is_stale(week, after(0) - TimeDelta::seconds(1)) && row.is_stale(week, after(0)));
        row.last_seen = Some(joined.plus_seconds(100));
        assert!(!row.is_stale(week, after(99)) && row.is_stale(week, after(100)));
    }
}
