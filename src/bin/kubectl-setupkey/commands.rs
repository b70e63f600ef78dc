//! Commands that a person is told to run, quoted for the shell that runs them.

use std::borrow::Cow;

use crate::flags::Connection;

/// The shells that commands are quoted for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Shell {
    /// The shell of POSIX: sh, bash, zsh.
    Posix,
    PowerShell,
}

impl Shell {
    /// A word that this shell hands on as it is.
    pub fn quote(self, word: &str) -> String {
        match self {
            // Only NUL cannot be quoted, and no command line can hold one.
            Shell::Posix => shlex::try_quote(word).unwrap_or(Cow::Borrowed("''")).into_owned(),
            Shell::PowerShell if word.chars().all(is_plain) => word.to_owned(),
            Shell::PowerShell => format!("'{}'", word.chars().map(doubled).collect::<String>()),
        }
    }

    /// These words as one command.
    pub fn line(self, words: &[String]) -> String {
        words.iter().map(|word| self.quote(word)).collect::<Vec<_>>().join(" ")
    }
}

/// Whether `PowerShell` takes this character as it is, at every place of a word.
fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '/' | ':' | '-' | '_')
}

/// `PowerShell` ends a text in quotation marks at typographic ones, too.
fn doubled(c: char) -> String {
    let is_quote = matches!(c, '\'' | '\u{2018}'..='\u{201b}');
    c.to_string().repeat(if is_quote { 2 } else { 1 })
}

/// The words of the command that reveals a key, with the same cluster and caller as this command.
pub fn reveal(connection: &Connection, namespace: &str, name: &str) -> Vec<String> {
    let mut words = ["kubectl", "setupkey", "reveal", name, "-n", namespace].map(str::to_owned).to_vec();
    let kubeconfig = connection.kubeconfig.as_ref().map(|path| path.display().to_string());
    let flags = [("--context", &connection.context), ("--kubeconfig", &kubeconfig), ("--as", &connection.impersonate)];
    for (flag, value) in flags {
        words.extend(value.iter().flat_map(|value| [flag.to_owned(), value.clone()]));
    }
    words.extend(connection.impersonate_groups.iter().flat_map(|group| ["--as-group".to_owned(), group.clone()]));
    words
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        connection: Connection,
    }

    #[test]
    fn a_command_asks_the_same_cluster_as_the_same_caller() {
        let flags = ["kubectl", "--context", "prod eu", "--kubeconfig", "/k", "--as", "ann", "--as-group", "vpn"];
        let words = reveal(&Cli::parse_from(flags).connection, "network", "office");
        let line =
            "kubectl setupkey reveal office -n network --context 'prod eu' --kubeconfig /k --as ann --as-group vpn";
        assert_eq!(Shell::Posix.line(&words), line);
    }

    #[test]
    fn a_word_means_nothing_to_its_shell() {
        for (word, posix, power_shell) in [
            ("office", "office", "office"),
            ("https://api.netbird.io:443/a", "https://api.netbird.io:443/a", "https://api.netbird.io:443/a"),
            ("a b", "'a b'", "'a b'"),
            ("$(id)", "'$(id)'", "'$(id)'"),
            ("it's", "\"it's\"", "'it''s'"),
            ("a\u{2019}b", "'a\u{2019}b'", "'a\u{2019}\u{2019}b'"),
            ("a,b;c&d@e", "'a,b;c&d@e'", "'a,b;c&d@e'"),
        ] {
            assert_eq!(Shell::Posix.quote(word), posix, "{word}");
            assert_eq!(Shell::PowerShell.quote(word), power_shell, "{word}");
        }
    }
}
