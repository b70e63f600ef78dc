//! The layers of `src/`: which folders each folder may use.
//!
//! {plain, api} ← key ← {cluster, protocol} ← {authority, audit, actions} ← {controller, enrollment, rest, agent, serve} ←
//! {cli, bin}. The test reads the paths in each file of a folder, in `use` lines and elsewhere. A new folder fails the test
//! until it has a row.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use regex::Regex;

/// Each folder, and what it may use besides itself. A row may name only folders above it. A row may lack its folder.
const LAYERS: [(&str, &[&str]); 17] = [
    ("plain", &[]),
    ("api", &[]),
    ("key", &["plain", "api"]),
    ("cluster", &["api", "key"]),
    ("protocol", &["api", "key"]),
    ("audit", &["api", "key"]),
    ("actions", &["api", "key", "cluster"]),
    ("serve", &["cluster"]),
    ("authority", &["plain", "api", "key", "cluster", "protocol"]),
    ("controller", &["plain", "api", "key", "cluster", "authority"]),
    ("enrollment", &["api", "key", "cluster", "protocol", "authority", "serve"]),
    ("rest", &["api", "key", "cluster", "actions", "protocol", "authority", "serve"]),
    ("agent", &["api", "key", "protocol", "serve"]),
    // The wiring.
    (
        "cli",
        &[
            "plain",
            "api",
            "key",
            "cluster",
            "protocol",
            "serve",
            "authority",
            "controller",
            "enrollment",
            "rest",
            "agent",
        ],
    ),
    // `kubectl setupkey`.
    ("bin", &["plain", "api", "key", "cluster", "protocol", "audit", "actions"]),
    ("lib.rs", &[]),
    ("main.rs", &["plain", "api", "cli"]),
];

/// A folder, and a part of an allowed folder that it must not use: calls to the API server decide nothing.
const NEVER: [(&str, &str); 1] = [("cluster", "key::plan")];

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn files(path: &Path) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path.to_owned()];
    }
    fs::read_dir(path).unwrap().flat_map(|entry| files(&entry.unwrap().path())).collect()
}

/// The paths below the crate's root in a text, as in "key::plan::Step". Comments do not count.
fn paths(text: &str) -> BTreeSet<String> {
    let code: Vec<_> = text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect();
    let code = code.join("\n");
    let code = Regex::new(r"\s+as\s+\w+|\s+").unwrap().replace_all(&code, "");
    let mut paths = BTreeSet::new();
    for root in ["crate::", "setupkey_operator::"] {
        for (at, _) in code.match_indices(root) {
            expand("", &code[at + root.len()..], &mut paths);
        }
    }
    paths
}

/// Reads one path, which may branch in braces, and returns what comes after it.
fn expand<'a>(before: &str, text: &'a str, paths: &mut BTreeSet<String>) -> &'a str {
    if let Some(mut branches) = text.strip_prefix('{') {
        while !branches.starts_with('}') {
            let rest = expand(before, branches, paths).trim_start_matches(',');
            assert!(rest.len() < branches.len(), "cannot be read: {text:.80}");
            branches = rest;
        }
        return &branches[1..];
    }
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    let path = format!("{before}{}", &text[..end]);
    match text[end..].strip_prefix("::") {
        Some(rest) if rest.starts_with(|c: char| c.is_alphabetic() || c == '{') => {
            expand(&format!("{path}::"), rest, paths)
        }
        _ => {
            paths.insert(path.trim_end_matches("::").to_owned());
            text[end..].trim_start_matches('*')
        }
    }
}

#[test]
fn each_folder_uses_only_what_is_below_it() {
    let mut arrows = BTreeSet::new();
    for entry in fs::read_dir(source()).unwrap() {
        let entry = entry.unwrap().file_name().into_string().unwrap();
        // A layer may be a single file.
        let row = LAYERS.iter().find(|(name, _)| *name == entry || entry == format!("{name}.rs"));
        let (folder, allowed) = *row.unwrap_or_else(|| panic!("src/{entry} is not in LAYERS: say what it may use"));
        for file in files(&source().join(&entry)) {
            for path in paths(&fs::read_to_string(&file).unwrap()) {
                let used = path.split("::").next().unwrap();
                // A name from the file itself in lib.rs or main.rs, or the folder itself.
                if used == folder || !LAYERS.iter().any(|(name, _)| *name == used) {
                    continue;
                }
                assert!(allowed.contains(&used), "{}: src/{folder} may not use {path}", file.display());
                let out_of_bounds = NEVER.iter().any(|(user, used)| *user == folder && path.starts_with(used));
                assert!(!out_of_bounds, "{}: src/{folder} may not use {path}", file.display());
                arrows.insert((folder, used.to_owned()));
            }
        }
    }
    // Without these arrows, the test would have read nothing.
    for (from, to) in [("key", "api"), ("controller", "key"), ("enrollment", "key"), ("cli", "controller")] {
        assert!(arrows.contains(&(from, to.to_owned())), "{from} does not use {to}: {arrows:?}");
    }
}

#[test]
fn the_layers_form_no_circle() {
    for (at, (folder, allowed)) in LAYERS.iter().enumerate() {
        for used in *allowed {
            assert!(LAYERS[..at].iter().any(|(below, _)| below == used), "{used} is not above {folder} in the table");
        }
    }
}

#[test]
fn paths_are_read_from_use_lines_and_from_code() {
    let text = "
        //! [`crate::rest`] is not used here.
        use crate::{
            api::{SetupKey, status::{self as s, *}},
            key::Digest as Fingerprint, // crate::agent
            serve,
        };
        fn now() -> Option<crate::cluster::Clock> { setupkey_operator::enrollment::Metrics::default() }
    ";
    let expected = [
        "api::SetupKey",
        "api::status",
        "api::status::self",
        "cluster::Clock",
        "enrollment::Metrics::default",
        "key::Digest",
        "serve",
    ];
    assert_eq!(paths(text).iter().map(String::as_str).collect::<Vec<_>>(), expected);
}
