//! The user data of a machine that is yet to be created.

use serde_json::{Value, json};

use super::{At, Joining, KEY, PLACEHOLDER};
use crate::failure::Failure;

const FILE: &str = "/etc/setupkey/setup-key";
const UNITS: &str = "/etc/systemd/system";
const UNIT: &str = "setupkey-enroll.service";

/// The agent of NetBird reads the file once. `enroll` reads it at every start, as a service of systemd.
pub fn config(joining: &Joining) -> Result<String, Failure> {
    let key = if joining.with_key { KEY } else { PLACEHOLDER };
    let key_file = file(FILE, "0600", &format!("{key}\n"));
    let config = match joining.at {
        At::NetBird => json!({
            "write_files": [key_file],
            "runcmd": [
                ["netbird", "up", "--management-url", joining.server, "--setup-key-file", FILE],
                ["rm", "-f", FILE],
            ],
        }),
        At::Cluster => json!({
            "write_files": [key_file, file(&format!("{UNITS}/{UNIT}"), "0644", &unit(&joining.server))],
            "runcmd": [["systemctl", "daemon-reload"], ["systemctl", "enable", "--now", UNIT]],
        }),
    };
    Ok(format!("#cloud-config\n{}", serde_yaml::to_string(&config)?))
}

fn file(path: &str, permissions: &str, content: &str) -> Value {
    json!({ "path": path, "permissions": permissions, "content": content })
}

fn unit(server: &str) -> String {
    let server = systemd_word(server);
    format!(
        "\
[Unit]
Description=Peer by setup key
Wants=network-online.target
After=network-online.target

[Service]
ExecStart=/usr/local/bin/setupkey-operator enroll --server {server} --key-file {FILE} --state-file /var/lib/setupkey/state --leave never
StateDirectory=setupkey
Restart=on-failure
RestartSec=10
# The key admits no machine, or the Peer was deleted.
RestartPreventExitStatus=3 4

[Install]
WantedBy=multi-user.target
"
    )
}

/// A word of a command line of systemd, in which nothing is a variable or a specifier.
fn systemd_word(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%").replace('$', "$$"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::join::tests::joining;

    fn read(joining: &Joining) -> Value {
        let text = config(joining).unwrap();
        assert!(text.starts_with("#cloud-config\n"), "{text}");
        serde_yaml::from_str(&text).unwrap()
    }

    #[test]
    fn the_commands_name_only_files_that_are_written() {
        for at in [At::NetBird, At::Cluster] {
            let config = read(&joining(at));
            let written: Vec<_> = config["write_files"].as_array().unwrap().iter().map(|file| &file["path"]).collect();
            let words = config["runcmd"].as_array().unwrap().iter().flat_map(|command| command.as_array().unwrap());
            let words = words.map(|word| word.as_str().unwrap());
            let named: Vec<_> = words.filter(|word| word.starts_with('/') || word.ends_with(".service")).collect();
            let is_written = |name: &&str| written.iter().any(|path| path.as_str().unwrap().ends_with(*name));
            assert!(!named.is_empty() && named.iter().all(is_written), "{named:?} of {written:?}");
        }
    }

    #[test]
    fn the_key_is_in_a_file_of_root_alone() {
        for (with_key, content) in [(false, PLACEHOLDER), (true, KEY)] {
            let config = read(&Joining { with_key, ..joining(At::NetBird) });
            let file = json!({ "path": FILE, "permissions": "0600", "content": format!("{content}\n") });
            assert_eq!(config["write_files"], json!([file]));
        }
    }

    #[test]
    fn systemd_sees_no_variable_in_a_url() {
        let config = read(&joining(At::Cluster));
        let unit = config["write_files"][1]["content"].as_str().unwrap();
        assert!(unit.contains("--server \"https://enroll.example.com/a'$$(id)\" --key-file"), "{unit}");
        assert_eq!(systemd_word("a%b\"c"), "\"a%%b\\\"c\"");
    }
}
