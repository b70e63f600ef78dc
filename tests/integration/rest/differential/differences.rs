//! The list of the differences.

use std::collections::BTreeSet;

use super::answers::Answer;

/// How this API differs from NetBird in some rows.
struct Difference {
    why: &'static str,
    /// `answer` if the status differs, else each header and field that differs. See [`Answer::differences`].
    parts: &'static [&'static str],
    /// How this API's answer begins: its status, and its message or text.
    here: &'static str,
    rows: &'static [&'static str],
}

/// Headers that differ in many rows.
const HEADERS: &[(&str, &str)] = &[
    ("allow", "a 404 for a method that a path does not have names those that it has; NetBird's does not"),
    (
        "cache-control",
        "no answer may be kept by a cache, because answers show keys and who may join; NetBird says nothing",
    ),
    (
        "vary",
        "NetBird's answers vary with the Origin, because it lets pages of other origins in; this API lets none in",
    ),
    ("www-authenticate", "a 401 names the scheme to use, as HTTP asks for; NetBird's does not"),
];

const DIFFERENCES: &[Difference] = &[
    Difference {
        why: "the text says what the caller may not do",
        parts: &["message"],
        here: "403 permission denied: the answer to a creation shows the key, which takes the right to get secrets",
        rows: &[
            "create: service user with role user",
            "create: service user with role auditor",
            "create: service user with role network_admin",
        ],
    },
    Difference {
        why: "a key is looked for first, with the caller's right to list keys; the right to change it is asked for when it is changed",
        parts: &["answer"],
        here: "404 setup key: 00000000000000000000 not found",
        rows: &["update: role user", "delete: role user"],
    },
    Difference {
        why: "pages of other origins have no business here, so there is no CORS",
        parts: &["answer"],
        here: "404 404 page not found",
        rows: &["method: CORS preflight"],
    },
    Difference {
        why: "pages of other origins have no business here, so there is no CORS",
        parts: &["access-control-allow-origin"],
        here: "200",
        rows: &["method: GET with an Origin"],
    },
    Difference {
        why: "NetBird answers OPTIONS as it answers GET",
        parts: &["answer"],
        here: "404 404 page not found",
        rows: &["method: OPTIONS list", "method: OPTIONS one"],
    },
    Difference {
        why: "a path is not corrected",
        parts: &["answer"],
        here: "404 404 page not found",
        rows: &["path: two slashes", "path: dots"],
    },
    Difference {
        why: "names are printed in terminals, logs and tables",
        parts: &["answer"],
        here: "422 setup key name may not contain control characters",
        rows: &["name: control characters"],
    },
    Difference {
        why: "the CRD's limit",
        parts: &["answer"],
        here: "422 setup key name must be at most 255 characters",
        rows: &["name: 256 characters"],
    },
    Difference {
        why: "a text is kept as it is, or refused; NetBird replaces what is no Unicode",
        parts: &["answer"],
        here: "400 couldn't parse JSON request",
        rows: &["name: a lone surrogate", "name: not UTF-8"],
    },
    Difference {
        why: "a body may have 64 KiB",
        parts: &["answer"],
        here: "413 the request body is too large",
        rows: &["name: 70,000 characters"],
    },
    Difference {
        why: "a key lives from a day to 365 days",
        parts: &["answer"],
        here: "422 expires_in must be from 86400 to 31536000 seconds",
        rows: &[
            "expires_in: absent",
            "expires_in: null",
            "expires_in: 0",
            "expires_in: 1",
            "expires_in: 86399",
            "expires_in: 31536001",
            "expires_in: ten years",
            "expires_in: overflows to the future",
        ],
    },
    Difference {
        why: "NetBird's sum overflows, and then the sentence is about the past",
        parts: &["message"],
        here: "422 expires_in must be from 86400 to 31536000 seconds",
        rows: &["expires_in: overflows to the past", "expires_in: 2^63-1"],
    },
    Difference {
        why: "NetBird's sum overflows, and the key never expires",
        parts: &["answer"],
        here: "422 expiresin can not be in the past",
        rows: &["expires_in: -2^63"],
    },
    Difference {
        why: "-0 is a fraction to this parser; as 0 it would be refused, too",
        parts: &["answer"],
        here: "400 couldn't parse JSON request",
        rows: &["expires_in: -0"],
    },
    Difference {
        why: "a limit is a number of peers, and NetBird takes a negative one for none; the CRD has 32 bits",
        parts: &["answer"],
        here: "422 usage_limit must be from 0, which is any number, to 2147483647",
        rows: &["usage_limit: -5", "usage_limit: one-off and -1", "usage_limit: 2147483648", "usage_limit: 2^63-1"],
    },
    Difference {
        why: "groups are names here, and need not exist before; what cannot be a name is refused",
        parts: &["message"],
        here: "422 invalid auto groups: no group can be called \"",
        rows: &[
            "auto_groups: unknown",
            "auto_groups: one good, one unknown",
            "auto_groups: an empty string",
            "update: auto_groups unknown",
            "update: un-revoke, unknown group",
        ],
    },
    Difference {
        why: "a group is a text, and null is none",
        parts: &["answer"],
        here: "400 couldn't parse JSON request",
        rows: &["auto_groups: null in it"],
    },
    Difference {
        why: "groups are a set in the resource",
        parts: &["auto_groups"],
        here: "200",
        rows: &["auto_groups: a group twice", "update: auto_groups twice"],
    },
    Difference {
        why: "a key of the cluster has no group of all peers, so 'All' is a name like any other",
        parts: &["answer"],
        here: "200",
        rows: &["auto_groups: All", "update: auto_groups All"],
    },
    Difference {
        why: "NetBird drops the connection",
        parts: &["answer"],
        here: "400 couldn't parse JSON request",
        rows: &["body: null", "update: null"],
    },
    Difference {
        why: "what is not understood is refused; NetBird ignores what comes after the first value",
        parts: &["answer"],
        here: "400 couldn't parse JSON request",
        rows: &["body: text after the JSON", "body: two objects", "update: text after the JSON"],
    },
    Difference {
        why: "what cannot be an id may be a key, put there by mistake, so it is not quoted",
        parts: &["message"],
        here: "404 setup key not found",
        rows: &[
            "get: not of an id's form",
            "get: a quote in the id",
            "get: unicode in the id",
            "get: bad escape in the id",
            "get: id of 5,000 characters",
            "get: by name",
        ],
    },
    Difference {
        why: "an escaped slash belongs to the id",
        parts: &["content-type", "text", "x-content-type-options"],
        here: "404 setup key not found",
        rows: &["get: a slash in the id, escaped"],
    },
    Difference {
        why: "what changes nothing is no change",
        parts: &["updated_at"],
        here: "200",
        rows: &["update: nothing changes", "update: revoke again"],
    },
    Difference {
        why: "the key is looked for first, because where it lives decides what its groups may be called",
        parts: &["answer"],
        here: "404 setup key: 00000000000000000000 not found",
        rows: &["update: unknown id, unknown group"],
    },
    Difference {
        why: "a revocation of a key of the cluster can be taken back",
        parts: &["answer"],
        here: "200",
        rows: &["update: un-revoke"],
    },
];

/// What was compared so far.
#[derive(Default)]
pub struct Comparison {
    problems: Vec<String>,
    /// What was found to differ.
    found: BTreeSet<&'static str>,
    rows: BTreeSet<String>,
}

impl Comparison {
    /// Compares the answers to a row with each other, and the difference with the list.
    pub fn compare(&mut self, row: &str, netbird: &Answer, here: &Answer) {
        assert!(self.rows.insert(row.to_owned()), "two rows are called {row:?}");
        let mut parts = netbird.differences(here);
        for (name, _) in HEADERS {
            if parts.remove(*name) {
                self.found.insert(name);
            }
        }
        let listed = DIFFERENCES.iter().find(|difference| difference.rows.contains(&row));
        let expected: BTreeSet<_> =
            listed.iter().flat_map(|listed| listed.parts).map(|part| (*part).to_owned()).collect();
        if parts != expected || listed.is_some_and(|listed| !here.brief().starts_with(listed.here)) {
            let expected =
                listed.map_or_else(|| "nothing".to_owned(), |listed| format!("{expected:?}, {:?}", listed.here));
            let why = listed.map_or("-", |listed| listed.why);
            self.problems.push(format!(
                "{row}\n  differ: {parts:?}\n  listed: {expected}\n  because: {why}\n  netbird: {}\n  here:    {}",
                netbird.brief(),
                here.brief()
            ));
        }
    }

    /// Fails if a difference is not on the list, or what is on the list does not differ.
    pub fn end(mut self) {
        let headers = HEADERS.iter().filter(|(name, _)| !self.found.contains(name));
        self.problems.extend(headers.map(|(name, _)| format!("the header {name} does not differ any more")));
        let rows = DIFFERENCES.iter().flat_map(|difference| difference.rows).filter(|row| !self.rows.contains(**row));
        self.problems.extend(rows.map(|row| format!("there is no row {row:?}")));
        assert!(self.problems.is_empty(), "{} problems:\n{}", self.problems.len(), self.problems.join("\n"));
    }
}

mod tests {
    use super::*;

    fn problems(row: &str, netbird: &Answer, here: &Answer) -> Vec<String> {
        let mut comparison = Comparison::default();
        comparison.compare(row, netbird, here);
        comparison.problems
    }

    fn answered(status: u16) -> Answer {
        Answer::Answered { status, headers: Default::default(), body: serde_json::Value::Null }
    }

    #[test]
    fn a_difference_that_is_not_listed_is_a_problem() {
        assert_eq!(problems("list: empty", &answered(200), &answered(200)), [""; 0]);
        assert_eq!(problems("list: empty", &answered(200), &answered(204)).len(), 1);
        assert_eq!(problems("list: empty", &answered(200), &Answer::Dropped).len(), 1);
    }

    #[test]
    fn a_listed_row_that_does_not_differ_is_a_problem() {
        assert_eq!(problems("update: un-revoke", &answered(422), &answered(200)), [""; 0]);
        assert_eq!(problems("update: un-revoke", &answered(422), &answered(422)).len(), 1);
        assert_eq!(problems("update: un-revoke", &answered(422), &answered(500)).len(), 1);
    }
}
