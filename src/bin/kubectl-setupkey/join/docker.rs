//! The commands for a container.

use super::{At, Joining, KEY_FILE};
use crate::commands::Shell;

/// The file stays, because the container reads it again when it restarts.
///
/// The operator's image runs as another user than the one that owns the file, so the container runs as that one.
pub fn commands(joining: &Joining) -> String {
    let (file, server) = (joining.write_key_file(), Shell::Posix.quote(&joining.server));
    let image = Shell::Posix.quote(&joining.image("netbirdio/netbird:0.77.1"));
    let name = &joining.name;
    match joining.at {
        At::NetBird => format!(
            "{file}docker run -d --name netbird-{name} --restart unless-stopped --cap-add NET_ADMIN \\\n    \
             -v \"$PWD/{KEY_FILE}:/key:ro\" -v netbird-{name}:/var/lib/netbird \\\n    \
             -e NB_SETUP_KEY_FILE=/key -e NB_MANAGEMENT_URL={server} \\\n    {image}\n"
        ),
        At::Cluster => format!(
            "mkdir -p setupkey-state\n\
             {file}docker run -d --name setupkey-{name} --restart unless-stopped --user \"$(id -u):$(id -g)\" \\\n    \
             -v \"$PWD/{KEY_FILE}:/key:ro\" -v \"$PWD/setupkey-state:/state\" \\\n    \
             {image} enroll --server {server} --key-file /key --state-file /state/peer --leave never\n"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::join::tests::joining;

    fn words(joining: &Joining) -> Vec<String> {
        let text = commands(joining);
        let (_, run) = text.split_once("docker run ").unwrap();
        shlex::split(&run.replace("\\\n", "")).unwrap()
    }

    #[test]
    fn a_container_of_netbird_mounts_the_file() {
        let expected = [
            "-d",
            "--name",
            "netbird-office",
            "--restart",
            "unless-stopped",
            "--cap-add",
            "NET_ADMIN",
            "-v",
            "$PWD/setup-key:/key:ro",
            "-v",
            "netbird-office:/var/lib/netbird",
            "-e",
            "NB_SETUP_KEY_FILE=/key",
            "-e",
            "NB_MANAGEMENT_URL=https://api.netbird.io",
            "netbirdio/netbird:0.77.1",
        ];
        assert_eq!(words(&joining(At::NetBird)), expected);
    }

    #[test]
    fn a_container_of_the_operator_keeps_its_state() {
        let words = words(&Joining { image: Some("registry/op:1".to_owned()), ..joining(At::Cluster) });
        let at = words.iter().position(|word| word == "registry/op:1").unwrap();
        let mounts: Vec<_> = words.windows(2).filter(|pair| pair[0] == "-v").map(|pair| pair[1].as_str()).collect();
        assert_eq!(mounts, ["$PWD/setup-key:/key:ro", "$PWD/setupkey-state:/state"]);
        let expected = [
            "enroll",
            "--server",
            "https://enroll.example.com/a'$(id)",
            "--key-file",
            "/key",
            "--state-file",
            "/state/peer",
            "--leave",
            "never",
        ];
        assert_eq!(words[at + 1..], expected);
    }
}
