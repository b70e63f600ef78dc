//! The commands for a machine with a shell.

use super::{At, Joining, KEY_FILE};
use crate::commands::Shell;

/// The agent of NetBird reads the file once. `enroll` reads it at every start, so it stays.
pub fn commands(joining: &Joining) -> String {
    let (file, server) = (joining.write_key_file(), Shell::Posix.quote(&joining.server));
    match joining.at {
        At::NetBird => {
            format!("{file}netbird up --management-url {server} --setup-key-file {KEY_FILE}\nrm -f {KEY_FILE}\n")
        }
        At::Cluster => format!(
            "{file}setupkey-operator enroll --server {server} --key-file {KEY_FILE} --state-file setupkey-state\n"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::join::{KEY, tests::joining};

    #[test]
    fn the_agent_of_netbird_joins_with_a_file_that_is_removed() {
        let expected = "\
(umask 077 && kubectl setupkey reveal office -n network > setup-key) &&
  netbird up --management-url https://api.netbird.io --setup-key-file setup-key
rm -f setup-key
";
        assert_eq!(commands(&joining(At::NetBird)), expected);
        let expected = format!(
            "(umask 077 && cat > setup-key) <<'END'\n{KEY}\nEND\nnetbird up --management-url https://api.netbird.io --setup-key-file setup-key\nrm -f setup-key\n"
        );
        assert_eq!(commands(&Joining { with_key: true, ..joining(At::NetBird) }), expected);
    }

    #[test]
    fn enroll_joins_at_the_enrollment_service() {
        let text = commands(&joining(At::Cluster));
        let words = shlex::split(text.lines().last().unwrap()).unwrap();
        let expected = [
            "setupkey-operator",
            "enroll",
            "--server",
            "https://enroll.example.com/a'$(id)",
            "--key-file",
            "setup-key",
            "--state-file",
            "setupkey-state",
        ];
        assert_eq!(words, expected);
    }
}
