//! What an unfinished command line asks for next, by the flags that clap knows.

use clap::{Arg, ArgAction, Command, builder::StyledStr};

use super::Suggestion;

/// The words of an unfinished command line.
pub struct Line {
    /// The verb, or the whole program as long as there is none.
    command: Command,
    has_verb: bool,
    /// The flags so far, with their values.
    used: Vec<(Arg, Option<String>)>,
    /// The flag that the next word is the value of.
    awaiting: Option<Arg>,
    /// Words that are no flags.
    positionals: Vec<String>,
    /// Whether `--` has ended the flags.
    is_literal: bool,
    current: String,
}

/// What comes next.
#[derive(Debug, Eq, PartialEq)]
pub enum Wanted {
    /// One of these words.
    Words(Vec<Suggestion>),
    /// The name of a `SetupKey`, but for these.
    Keys { except: Vec<String> },
    /// The name of a namespace.
    Namespaces,
    /// A context of the kubeconfig.
    Contexts,
    /// A file.
    Files,
    /// Anything, or nothing.
    Nothing,
}

impl Line {
    /// Reads the words. The last one is unfinished.
    pub fn read(mut command: Command, words: &[String]) -> Self {
        command.build();
        let (current, before) = words.split_last().map_or((String::new(), words), |(last, rest)| (last.clone(), rest));
        let mut line = Self {
            command,
            has_verb: false,
            used: Vec::new(),
            awaiting: None,
            positionals: Vec::new(),
            is_literal: false,
            current,
        };
        before.iter().for_each(|word| line.take(word));
        line
    }

    fn take(&mut self, word: &str) {
        if let Some(flag) = self.awaiting.take() {
            self.used.push((flag, Some(word.to_owned())));
        } else if self.is_literal {
            self.positionals.push(word.to_owned());
        } else if word == "--" {
            self.is_literal = true;
        } else if let Some(long) = word.strip_prefix("--") {
            let (name, value) = long.split_once('=').map_or((long, None), |(name, value)| (name, Some(value)));
            if let Some(flag) = self.long(name) {
                self.flag(flag, value);
            }
        } else if let Some(shorts) = word.strip_prefix('-').filter(|shorts| !shorts.is_empty()) {
            self.take_shorts(shorts);
        } else if let Some(verb) = self.command.find_subcommand(word).filter(|_| !self.has_verb).cloned() {
            self.command = verb;
            self.has_verb = true;
        } else {
            self.positionals.push(word.to_owned());
        }
    }

    /// `-A`, `-nteam`, `-n=team`, or several in one word: `-An`.
    fn take_shorts(&mut self, shorts: &str) {
        for (at, short) in shorts.char_indices() {
            let Some(flag) = self.command.get_arguments().find(|flag| flag.get_short() == Some(short)).cloned() else {
                return;
            };
            let rest = &shorts[at + short.len_utf8()..];
            if takes_value(&flag) && !rest.is_empty() {
                return self.flag(flag, Some(rest.strip_prefix('=').unwrap_or(rest)));
            }
            self.flag(flag, None);
        }
    }

    fn flag(&mut self, flag: Arg, value: Option<&str>) {
        if value.is_none() && awaits_value(&flag) {
            self.awaiting = Some(flag);
        } else {
            self.used.push((flag, value.map(str::to_owned)));
        }
    }

    fn long(&self, name: &str) -> Option<Arg> {
        self.command.get_arguments().find(|flag| flag.get_long() == Some(name)).cloned()
    }

    /// The values so far of the flags that this command has, as `--flag=value`.
    pub fn values_of(&self, command: &Command) -> Vec<String> {
        let is_known = |long: &str| command.get_arguments().any(|flag| flag.get_long() == Some(long));
        let known = self.used.iter().filter_map(|(flag, value)| Some((flag.get_long()?, value.as_deref()?)));
        known.filter(|(long, _)| is_known(long)).map(|(long, value)| format!("--{long}={value}")).collect()
    }

    /// What the next word has to begin with.
    pub fn prefix(&self) -> &str {
        match self.flag_and_value() {
            Some((_, value)) => value,
            None => &self.current,
        }
    }

    /// A flag and its unfinished value in one word: `--for=do`.
    fn flag_and_value(&self) -> Option<(Arg, &str)> {
        if self.awaiting.is_some() || self.is_literal {
            return None;
        }
        let (name, value) = self.current.split_once('=')?;
        let by_short = |short: &str| {
            self.command.get_arguments().find(|flag| flag.get_short().map(String::from).as_deref() == Some(short))
        };
        let flag = match name.strip_prefix("--") {
            Some(long) => self.long(long),
            None => name.strip_prefix('-').and_then(by_short).cloned(),
        };
        Some((flag.filter(takes_value)?, value))
    }

    /// What comes next.
    pub fn wanted(&self) -> Wanted {
        if let Some(flag) = &self.awaiting {
            return of_value(flag);
        }
        if let Some((flag, _)) = self.flag_and_value() {
            return of_value(&flag);
        }
        if self.current.starts_with('-') && !self.is_literal {
            return Wanted::Words(self.flags());
        }
        if !self.has_verb {
            return if self.positionals.is_empty() { Wanted::Words(self.verbs()) } else { Wanted::Nothing };
        }
        self.of_positional()
    }

    fn verbs(&self) -> Vec<Suggestion> {
        let shown = self.command.get_subcommands().filter(|verb| !verb.is_hide_set());
        shown.map(|verb| Suggestion { word: verb.get_name().to_owned(), meaning: said(verb.get_about()) }).collect()
    }

    /// The flags that still fit.
    fn flags(&self) -> Vec<Suggestion> {
        let mut suggestions = Vec::new();
        let fits = |flag: &&Arg| !flag.is_positional() && !flag.is_hide_set() && self.still_fits(flag);
        for flag in self.command.get_arguments().filter(fits) {
            let meaning = said(flag.get_help());
            if let Some(long) = flag.get_long() {
                suggestions.push(Suggestion { word: format!("--{long}"), meaning: meaning.clone() });
            }
            if let Some(short) = flag.get_short() {
                suggestions.push(Suggestion { word: format!("-{short}"), meaning });
            }
        }
        suggestions
    }

    fn of_positional(&self) -> Wanted {
        let places: Vec<_> = self.command.get_positionals().collect();
        let last = places.last().copied().filter(is_many);
        let Some(place) = places.get(self.positionals.len()).copied().or(last) else { return Wanted::Nothing };
        if !self.still_fits(place) {
            return Wanted::Nothing;
        }
        if value_name(place) == "NAME" {
            return Wanted::Keys { except: self.positionals.clone() };
        }
        of_value(place)
    }

    /// Whether an argument can be added to those that are there.
    fn still_fits(&self, argument: &Arg) -> bool {
        let conflict = |a: &Arg, b: &Arg| {
            self.command.get_arg_conflicts_with(a).iter().any(|conflict| conflict.get_id() == b.get_id())
        };
        let fits_to = |used: &Arg| {
            let twice = used.get_id() == argument.get_id() && !is_many(&argument);
            !twice && !conflict(used, argument) && !conflict(argument, used)
        };
        let first = self.command.get_positionals().next().filter(|_| !self.positionals.is_empty());
        let named = first.is_none_or(|first| !conflict(first, argument) && !conflict(argument, first));
        named && self.used.iter().all(|(used, _)| fits_to(used))
    }
}

fn of_value(argument: &Arg) -> Wanted {
    let values = argument.get_possible_values();
    if !values.is_empty() {
        let shown = values.iter().filter(|value| !value.is_hide_set());
        return Wanted::Words(
            shown
                .map(|value| Suggestion { word: value.get_name().to_owned(), meaning: said(value.get_help()) })
                .collect(),
        );
    }
    match (argument.get_long(), value_name(argument)) {
        (Some("namespace"), _) => Wanted::Namespaces,
        (Some("context"), _) => Wanted::Contexts,
        (_, "PATH" | "FILE") => Wanted::Files,
        _ => Wanted::Nothing,
    }
}

fn takes_value(argument: &Arg) -> bool {
    argument.get_action().takes_values()
}

/// Whether the next word is the value, if the flag has none yet.
fn awaits_value(argument: &Arg) -> bool {
    let least = argument.get_num_args().map_or(1, |range| range.min_values());
    takes_value(argument) && least > 0 && !argument.is_require_equals_set()
}

fn is_many(argument: &&Arg) -> bool {
    matches!(argument.get_action(), ArgAction::Append | ArgAction::Count)
        || argument.get_num_args().is_some_and(|range| range.max_values() > 1)
}

fn value_name(argument: &Arg) -> &str {
    argument.get_value_names().and_then(|names| names.first()).map_or("", |name| name.as_str())
}

fn said(text: Option<&StyledStr>) -> String {
    text.map(ToString::to_string).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn line(words: &[&str]) -> Line {
        let words: Vec<_> = words.iter().map(ToString::to_string).collect();
        Line::read(crate::Cli::command(), &words)
    }

    /// The words that come next and begin with what is typed.
    fn next(words: &[&str]) -> Vec<String> {
        let line = line(words);
        let Wanted::Words(suggestions) = line.wanted() else { panic!("{words:?}: {:?}", line.wanted()) };
        let all = suggestions.into_iter().map(|suggestion| suggestion.word);
        all.filter(|word| word.starts_with(line.prefix())).collect()
    }

    #[test]
    fn the_first_word_is_a_verb() {
        let verbs = next(&[""]);
        assert!(verbs.contains(&"list".to_owned()) && verbs.contains(&"revoke".to_owned()), "{verbs:?}");
        assert_eq!(next(&["-n", "team", "unre"]), ["unrevoke"]);
        assert_eq!(line(&["nonsense", ""]).wanted(), Wanted::Nothing);
    }

    #[test]
    fn a_flag_is_completed_once_and_only_where_it_fits() {
        assert_eq!(next(&["list", "--all"]), ["--all-namespaces"]);
        assert!(next(&["list", "-A", "--all"]).is_empty());
        assert!(next(&["list", "-A", "--names"]).is_empty(), "-n and -A are refused together");
        assert!(next(&["revoke", "office", "--al"]).is_empty(), "names and --all are refused together");
        assert_eq!(next(&["list", "--as-group", "a", "--as-g"]), ["--as-group"]);
        assert!(next(&["list", "-"]).contains(&"-l".to_owned()));
    }

    #[test]
    fn a_value_of_a_flag_is_completed_in_each_way_to_write_it() {
        for words in [["list", "--color", "a"].as_slice(), &["list", "--color=a"], &["--color", "never", "--color=a"]] {
            assert_eq!(next(words), ["auto", "always"], "{words:?}");
        }
        assert_eq!(next(&["list", "-o", ""]), ["table", "wide", "json", "yaml", "name"]);
        assert_eq!(next(&["list", "-o=j"]), ["json"]);
        assert_eq!(next(&["completion", "k"]), ["kubectl"]);
        assert_eq!(next(&["wait", "office", "--for", "re"]), ["revoked", "ready"]);
        assert_eq!(next(&["reveal", "office", "-o", ""]), ["key", "env"]);
        assert_eq!(next(&["join", "office", "--for", "l"]), ["linux"]);
        assert_eq!(line(&["list", "-n", ""]).wanted(), Wanted::Namespaces);
        assert_eq!(line(&["list", "-An", ""]).wanted(), Wanted::Namespaces);
        assert_eq!(line(&["--context=k"]).wanted(), Wanted::Contexts);
        assert_eq!(line(&["list", "--kubeconfig", "/"]).wanted(), Wanted::Files);
        assert_eq!(line(&["list", "--selector", ""]).wanted(), Wanted::Nothing);
    }

    #[test]
    fn a_name_is_that_of_a_key_that_is_not_there_yet() {
        let keys = |except: &[&str]| Wanted::Keys { except: except.iter().map(ToString::to_string).collect() };
        assert_eq!(line(&["revoke", ""]).wanted(), keys(&[]));
        assert_eq!(line(&["revoke", "--timeout", "3s", "office", "k"]).wanted(), keys(&["office"]));
        assert_eq!(line(&["revoke", "--", "-"]).wanted(), keys(&[]));
        assert_eq!(line(&["revoke", "--all", ""]).wanted(), Wanted::Nothing);
        assert_eq!(line(&["create", ""]).wanted(), Wanted::Nothing, "a new key has a new name");
        assert_eq!(line(&["list", ""]).wanted(), Wanted::Nothing);
    }

    #[test]
    fn the_connection_is_that_of_the_words_so_far() {
        let flags = |words: &[&str]| line(words).values_of(&crate::Cli::command());
        let words = ["-nteam", "revoke", "--context", "c", "--as=ann", "--as-group", "a", "--as-group=b", "--all", ""];
        assert_eq!(flags(&words), ["--namespace=team", "--context=c", "--as=ann", "--as-group=a", "--as-group=b"]);
    }

    /// Verbs of other files are completed too: each word that has a fixed set of values, and each name of a key.
    #[test]
    fn every_verb_completes_without_a_fault() {
        let mut root = crate::Cli::command();
        root.build();
        for verb in root.get_subcommands() {
            for word in ["", "-", "--", "x"] {
                let wanted = line(&[verb.get_name(), word]).wanted();
                assert!(word != "--" || matches!(&wanted, Wanted::Words(flags) if !flags.is_empty()), "{verb}");
            }
        }
    }
}
