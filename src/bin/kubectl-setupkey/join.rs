//! `kubectl setupkey join`.

mod cloud_init;
mod docker;
mod kubernetes;
mod linux;
mod windows;

use std::process::ExitCode;

use clap::ValueEnum;
use secrecy::zeroize::Zeroizing;
use setupkey_operator::{
    key::KeyValue,
    protocol::{is_dns_label, service_url},
};

use crate::{
    commands::{self, Shell},
    failure::Failure,
    flags::{self, Connection},
    management,
    print::Printer,
    reveal::{value_of, warn_of_refusal},
    session::Session,
};

/// Stands for the key until the text is printed. No key has this value, because it is no UUID of version 4.
const KEY: &str = "00000000-0000-0000-0000-000000000000";
/// What a person replaces by the key.
const PLACEHOLDER: &str = "REPLACE-WITH-THE-SETUP-KEY";
/// The file that the commands put the key into.
const KEY_FILE: &str = "setup-key";

/// Print the commands by which a machine joins with a key. They name files, never the key, unless --show-key.
///
/// The machine needs NetBird's agent for a key at NetBird, or setupkey-operator for a key of the cluster itself.
#[derive(clap::Args)]
#[command(
    after_help = "With kubectl alone, the file that the commands name:\n  kubectl get secret SECRET -o jsonpath='{.data.setup-key}' | base64 -d > setup-key"
)]
pub struct Flags {
    /// Name of the SetupKey.
    #[arg(value_name = "NAME", value_parser = flags::name)]
    name: String,

    /// What joins.
    #[arg(long = "for", value_name = "WHAT", value_enum)]
    target: Target,

    /// URL at which machines join: of NetBird's management, or of the enrollment service. Default for a key at NetBird: the URL
    /// of its authority.
    #[arg(long, value_name = "URL", value_parser = server)]
    server: Option<String>,

    /// Image of the agent, for docker and kubernetes.
    #[arg(long, value_name = "IMAGE", value_parser = image)]
    image: Option<String>,

    /// ConfigMap whose ca.crt the pods trust, for kubernetes. Default: the CAs that the image trusts.
    #[arg(long, value_name = "NAME", value_parser = config_map)]
    ca_config_map: Option<String>,

    /// Print the key among the commands, too. It takes the right to get Secrets.
    #[arg(long)]
    show_key: bool,
}

/// What joins.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Target {
    /// A container.
    Docker,
    /// A machine with a shell.
    Linux,
    /// A machine with PowerShell.
    Windows,
    /// Pods beside the Secret of the key.
    Kubernetes,
    /// A machine that is yet to be created.
    CloudInit,
}

/// What the commands are made of.
struct Joining {
    /// The namespace and the name of the `SetupKey`.
    namespace: String,
    name: String,
    /// Where its value is.
    secret: String,
    data_key: String,
    /// Where machines join.
    server: String,
    at: At,
    /// The command that reveals the key, as words.
    reveal: Vec<String>,
    image: Option<String>,
    ca_config_map: Option<String>,
    /// Whether the commands hold [`KEY`].
    with_key: bool,
}

/// Who admits the machines.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum At {
    NetBird,
    Cluster,
}

/// Prints the commands.
pub async fn run(flags: Flags, connection: &Connection, printer: &Printer) -> Result<ExitCode, Failure> {
    mixture(&flags)?;
    let session = Session::start(connection)?;
    let (key, value) = if flags.show_key {
        let (key, value) = value_of(&session, &flags.name).await?;
        (key, Some(value))
    } else {
        (session.key(&flags.name).await?, None)
    };
    let (at, server) = match (&key.spec.authority_ref, flags.server) {
        (None, Some(server)) => (At::Cluster, server),
        (None, None) => {
            return Err(Failure::new(format!(
                "the URL of the enrollment service, at which machines join with SetupKey {}/{}, is not known here: give --server URL",
                session.namespace, flags.name
            )));
        }
        (Some(_), Some(server)) => (At::NetBird, server),
        (Some(authority), None) => {
            let known = management::agent_url(&session, &key, authority).await;
            let unknown = |why| {
                Failure::new(format!(
                    "the URL at which machines join with SetupKey {}/{} is not known: {why}; give --server URL",
                    session.namespace, flags.name
                ))
            };
            (At::NetBird, known.map_err(unknown)?)
        }
    };
    let joining = Joining {
        namespace: session.namespace.clone(),
        name: flags.name.clone(),
        secret: key.secret_name().to_owned(),
        data_key: key.secret_key().to_owned(),
        server,
        at,
        reveal: commands::reveal(connection, &session.namespace, &flags.name),
        image: flags.image,
        ca_config_map: flags.ca_config_map,
        with_key: value.is_some(),
    };
    let text = joining.text(flags.target)?;
    match &value {
        Some(value) => printer.print_key(&filled(&text, value))?,
        None => printer.print(&text)?,
    }
    if let Some(note) = joining.note(flags.target) {
        printer.note(&note);
    }
    warn_of_refusal(&session, &key, printer);
    Ok(ExitCode::SUCCESS)
}

/// Refuses flags that say nothing about this target.
fn mixture(flags: &Flags) -> Result<(), Failure> {
    let pulls = matches!(flags.target, Target::Docker | Target::Kubernetes);
    if flags.image.is_some() && !pulls {
        return Err(Failure::new("--image says nothing here: only docker and kubernetes start an image"));
    }
    if flags.ca_config_map.is_some() && flags.target != Target::Kubernetes {
        return Err(Failure::new("--ca-config-map says nothing here: only kubernetes mounts one"));
    }
    if flags.show_key && flags.target == Target::Kubernetes {
        return Err(Failure::new(
            "--show-key says nothing here: the pods mount the Secret, and the manifest has no key",
        ));
    }
    Ok(())
}

impl Joining {
    fn text(&self, target: Target) -> Result<String, Failure> {
        match target {
            Target::Docker => Ok(docker::commands(self)),
            Target::Linux => Ok(linux::commands(self)),
            Target::Windows => Ok(windows::commands(self)),
            Target::Kubernetes => kubernetes::manifest(self),
            Target::CloudInit => cloud_init::config(self),
        }
    }

    /// What a person should know beside the commands.
    fn note(&self, target: Target) -> Option<String> {
        let (secret, namespace) = (&self.secret, &self.namespace);
        let reveal = Shell::Posix.line(&self.reveal);
        match target {
            Target::Kubernetes => Some(format!(
                "To apply it, pipe it into kubectl apply -f -. Its pods mount Secret {namespace}/{secret}."
            )),
            Target::CloudInit if self.with_key => {
                Some("Every program of the machine can ask its cloud for this text, and so for the key.".to_owned())
            }
            Target::CloudInit => Some(format!("Replace {PLACEHOLDER} by the key: {reveal}")),
            _ if self.with_key => None,
            _ => Some(format!(
                "The first command needs kubectl. For a machine without it, copy the file {KEY_FILE} there, and leave that command out."
            )),
        }
    }

    /// The commands that put the key into [`KEY_FILE`], which only this user can read. What follows needs that file.
    fn write_key_file(&self) -> String {
        if self.with_key {
            format!("(umask 077 && cat > {KEY_FILE}) <<'END'\n{KEY}\nEND\n")
        } else {
            let reveal = Shell::Posix.line(&self.reveal);
            format!("(umask 077 && {reveal} > {KEY_FILE}) &&\n  ")
        }
    }

    /// The version of this program is that of the operator's image.
    fn image(&self, of_netbird: &str) -> String {
        let of_operator = || format!("setupkey-operator:{}", env!("CARGO_PKG_VERSION"));
        self.image.clone().unwrap_or_else(|| match self.at {
            At::NetBird => of_netbird.to_owned(),
            At::Cluster => of_operator(),
        })
    }
}

/// The text with the key in its places, in memory that is wiped.
fn filled(text: &str, value: &KeyValue) -> Zeroizing<String> {
    let room = text.len() + text.matches(KEY).count() * value.expose().len();
    let mut filled = Zeroizing::new(String::with_capacity(room));
    for (number, part) in text.split(KEY).enumerate() {
        if number > 0 {
            filled.push_str(value.expose());
        }
        filled.push_str(part);
    }
    filled
}

/// The URL without a slash at the end, so that a path can follow.
fn server(text: &str) -> Result<String, String> {
    let rule = "a URL is such as https://enroll.example.com, without a user or a query";
    service_url(text).map(|_| text.trim_end_matches('/').to_owned()).ok_or_else(|| rule.to_owned())
}

fn image(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/' | ':' | '@');
    let begins = text.starts_with(|c: char| c.is_ascii_alphanumeric());
    let rule = "an image is such as registry.example.com/netbird:0.77.1";
    if begins && text.chars().all(fits) { Ok(text.to_owned()) } else { Err(rule.to_owned()) }
}

fn config_map(text: &str) -> Result<String, String> {
    let fits = text.len() <= 253 && text.split('.').all(is_dns_label);
    let rule = "the name of a ConfigMap has lower-case letters, digits, and inner hyphens and dots";
    if fits { Ok(text.to_owned()) } else { Err(rule.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A key at NetBird, or of the cluster itself, in whose names and URL everything is that a shell could take for its own.
    pub fn joining(at: At) -> Joining {
        let server = match at {
            At::NetBird => "https://api.netbird.io",
            At::Cluster => "https://enroll.example.com/a'$(id)",
        };
        Joining {
            namespace: "network".to_owned(),
            name: "office".to_owned(),
            secret: "netbird-setup-key".to_owned(),
            data_key: "key".to_owned(),
            server: server.to_owned(),
            at,
            reveal: ["kubectl", "setupkey", "reveal", "office", "-n", "network"].map(str::to_owned).to_vec(),
            image: None,
            ca_config_map: None,
            with_key: false,
        }
    }

    #[test]
    fn the_key_is_in_the_commands_only_where_it_is_asked_for() {
        let value = KeyValue::parse(b"563A1F41-DB48-43E6-B871-0EF6B9304390").unwrap();
        for at in [At::NetBird, At::Cluster] {
            for target in [Target::Docker, Target::Linux, Target::Windows, Target::CloudInit] {
                let text = |with_key| Joining { with_key, ..joining(at) }.text(target).unwrap();
                assert!(!text(false).contains(KEY), "{target:?}");
                assert_eq!(text(true).matches(KEY).count(), 1, "{target:?}");
                let filled = filled(&text(true), &value);
                assert!(filled.contains(value.expose()) && !filled.contains(KEY), "{target:?}");
                // Only kubectl reads it from the cluster, and no command line has it.
                assert!(!filled.lines().any(|line| line.contains(value.expose()) && line.contains("netbird up")));
            }
        }
    }

    #[test]
    fn an_image_and_a_config_map_are_names() {
        for text in ["netbirdio/netbird:0.77.1", "localhost:5000/a@sha256:00"] {
            assert!(image(text).is_ok(), "{text}");
        }
        for text in ["", "-it", "a b", "a;b", "$(id)"] {
            assert!(image(text).is_err(), "{text}");
        }
        assert!(config_map("enrollment-ca").is_ok() && config_map("A").is_err() && config_map("").is_err());
    }
}
