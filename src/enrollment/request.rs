//! Reads and checks what a machine sends to join: bytes in, an applicant or a complaint out.
//!
//! A complaint names the field and says what it accepts. It never quotes what was sent, which may be a key.

use std::collections::BTreeSet;

use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value};

use crate::{
    key::{Digest, PublicKey, ledger::Applicant},
    protocol::{
        is_dns_label, is_hostname,
        limits::{KEY, LABELS, TOKEN},
        presented_key,
    },
};

/// Why a request is not valid.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Complaint {
    /// The body is not a JSON object.
    #[error("the body must be a JSON object in UTF-8")]
    NotJson,
    /// A field is missing or wrong.
    #[error("{field} {rule}")]
    Field {
        /// Its name in the body.
        field: &'static str,
        /// What it accepts.
        rule: &'static str,
    },
}

/// Reads the body of `POST /v1/enroll`, an [`EnrollRequest`](crate::protocol::EnrollRequest). Unknown fields are ignored.
pub fn parse(body: &[u8]) -> Result<Applicant, Complaint> {
    let Ok(Value::Object(mut fields)) = serde_json::from_slice(body) else { return Err(Complaint::NotJson) };
    // Both are taken out before any complaint, so that both are wiped.
    let (key, token) = (secret(&mut fields, "setupKey"), secret(&mut fields, "token"));
    let (key, token) = (key?, token?);
    let public_key = text(&mut fields, "publicKey")?.and_then(|text| PublicKey::parse(&text));
    let hostname = text(&mut fields, "hostname")?.filter(|text| is_hostname(text));
    Ok(Applicant {
        key: key
            .as_ref()
            .map(|key| presented_key(key.expose_secret()))
            .filter(|key| is_key(key))
            .map(Digest::of_presented)
            .ok_or(Complaint::Field { field: "setupKey", rule: "must be 1 to 64 printable ASCII characters" })?,
        public_key: public_key.ok_or(Complaint::Field {
            field: "publicKey",
            rule: "must be the base64 of 32 bytes, as `wg pubkey` prints it",
        })?,
        hostname: hostname.ok_or(Complaint::Field {
            field: "hostname",
            rule: "must be 1 to 253 letters, digits, dots, hyphens and underscores",
        })?,
        extra_dns_labels: labels(fields.remove("extraDnsLabels"))?,
        token: token
            .filter(|token| is_token(token.expose_secret()))
            .map(|token| digest_of_token(token.expose_secret()))
            .ok_or(Complaint::Field {
                field: "token",
                rule: "must be 43 to 256 printable ASCII characters without spaces: at least 32 random bytes in base64",
            })?,
    })
}

/// Whether a text may be a key at all.
fn is_key(text: &str) -> bool {
    KEY.contains(&text.len()) && text.bytes().all(|byte| matches!(byte, b' '..=b'~'))
}

/// The digest by which a token is recognised.
pub fn digest_of_token(token: &str) -> Digest {
    Digest::of(token)
}

/// Whether a text may be a token at all.
pub fn is_token(text: &str) -> bool {
    TOKEN.contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// A text that is wiped from memory when it is dropped.
fn secret(fields: &mut Map<String, Value>, field: &'static str) -> Result<Option<SecretString>, Complaint> {
    text(fields, field).map(|text| text.map(SecretString::from))
}

fn text(fields: &mut Map<String, Value>, field: &'static str) -> Result<Option<String>, Complaint> {
    match fields.remove(field) {
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(Complaint::Field { field, rule: "must be a text" }),
        None => Err(Complaint::Field { field, rule: "is missing" }),
    }
}

fn labels(value: Option<Value>) -> Result<Vec<String>, Complaint> {
    let wrong = Complaint::Field {
        field: "extraDnsLabels",
        rule: "must be a list of at most 32 different DNS labels: lower-case letters, digits and inner hyphens, \
               at most 63",
    };
    let values = match value {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(values)) if values.len() <= LABELS => values,
        Some(_) => return Err(wrong),
    };
    let labels = values.into_iter().map(|value| match value {
        Value::String(label) if is_dns_label(&label) => Ok(label),
        _ => Err(wrong),
    });
    let labels: Vec<_> = labels.collect::<Result<_, _>>()?;
    let distinct: BTreeSet<_> = labels.iter().collect();
    if distinct.len() == labels.len() { Ok(labels) } else { Err(wrong) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::protocol::{EnrollRequest, limits};

    const KEY: &str = "563A1F41-DB48-43E6-B871-0EF6B9304390";
    const TOKEN: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

    fn body() -> Value {
        json!({ "setupKey": KEY, "publicKey": format!("{TOKEN}="), "hostname": "ada", "token": TOKEN })
    }

    fn with(field: &str, value: Value) -> Result<Applicant, Complaint> {
        let mut body = body();
        body[field] = value;
        parse(body.to_string().as_bytes())
    }

    /// The field that the complaint names.
    fn complaint(field: &str, value: Value) -> &'static str {
        match with(field, value) {
            Err(Complaint::Field { field, .. }) => field,
            other => panic!("{field}: {other:?}"),
        }
    }

    #[test]
    fn what_the_client_sends_is_read_as_it_was_meant() {
        let request = EnrollRequest {
            setup_key: KEY.to_owned(),
            public_key: format!("{TOKEN}="),
            hostname: "ada".to_owned(),
            extra_dns_labels: vec!["db".to_owned()],
            token: TOKEN.to_owned(),
        };
        let applicant = Applicant {
            key: Digest::of(KEY),
            public_key: PublicKey::from_bytes([0; 32]),
            hostname: "ada".to_owned(),
            extra_dns_labels: vec!["db".to_owned()],
            token: Digest::of(TOKEN),
        };
        assert_eq!(parse(&serde_json::to_vec(&request).unwrap()), Ok(applicant));
    }

    #[test]
    fn each_complaint_names_the_limits() {
        for (field, value, limits) in [
            ("setupKey", json!(""), vec![*limits::KEY.start(), *limits::KEY.end()]),
            ("hostname", json!(""), vec![*limits::HOSTNAME.start(), *limits::HOSTNAME.end()]),
            ("token", json!(""), vec![*limits::TOKEN.start(), *limits::TOKEN.end()]),
            ("extraDnsLabels", json!(""), vec![limits::LABELS, *limits::LABEL.end()]),
        ] {
            let sentence = with(field, value).unwrap_err().to_string();
            assert!(
                limits
                    .iter()
                    .all(|limit| sentence.contains(&format!(" {limit} ")) || sentence.ends_with(&format!(" {limit}"))),
                "{sentence}"
            );
        }
    }

    #[test]
    fn a_key_is_known_however_it_is_typed() {
        let applicant = with("setupKey", KEY.to_lowercase().into()).unwrap();
        assert_eq!(applicant.key, Digest::of(KEY));
    }

    #[test]
    fn white_space_around_a_key_is_no_part_of_it() {
        let longest = "a".repeat(64);
        for (before, after) in
            [(" ", "\n"), ("\t\r\n", "\u{b}\u{c}"), ("\u{feff}", "\u{a0}\u{85}"), ("", "\u{2003}\u{2028}")]
        {
            for key in [KEY, "a b", &longest] {
                let sent = format!("{before}{key}{after}");
                assert_eq!(with("setupKey", json!(sent)).unwrap().key, Digest::of_presented(key), "{sent:?}");
            }
        }
    }

    #[test]
    fn each_field_is_named_when_it_is_missing() {
        for field in ["setupKey", "publicKey", "hostname", "token"] {
            let mut body = body();
            body.as_object_mut().unwrap().remove(field);
            let wrong = parse(body.to_string().as_bytes()).unwrap_err();
            assert_eq!(wrong, Complaint::Field { field, rule: "is missing" });
        }
    }

    #[test]
    fn each_field_is_named_when_it_is_wrong() {
        let long = |length: usize| json!("a".repeat(length));
        for (field, value) in [
            ("setupKey", json!(1)),
            ("setupKey", json!("")),
            ("setupKey", long(65)),
            ("setupKey", json!("ä")),
            ("setupKey", json!(" \n\u{feff}")),
            ("setupKey", json!("a\nb")),
            ("setupKey", json!("a\u{a0}b")),
            ("setupKey", json!("a\u{0}")),
            ("setupKey", json!(format!(" {} ", "a".repeat(65)))),
            ("publicKey", json!("")),
            ("publicKey", json!(TOKEN)),
            ("hostname", json!("")),
            ("hostname", long(254)),
            ("hostname", json!("a b")),
            ("hostname", json!("a\u{0}")),
            ("hostname", json!("ä")),
            ("token", long(42)),
            ("token", long(257)),
            ("token", json!(format!("{TOKEN} "))),
            ("token", json!(format!("{TOKEN}ä"))),
            ("extraDnsLabels", json!("a")),
            ("extraDnsLabels", json!([1])),
            ("extraDnsLabels", json!([""])),
            ("extraDnsLabels", json!(["A"])),
            ("extraDnsLabels", json!(["-a"])),
            ("extraDnsLabels", json!(["a-"])),
            ("extraDnsLabels", json!(["a.b"])),
            ("extraDnsLabels", json!(["*"])),
            ("extraDnsLabels", json!(["a", "a"])),
            ("extraDnsLabels", json!([long(64)])),
            ("extraDnsLabels", json!((0..33).map(|number| format!("a{number}")).collect::<Vec<_>>())),
        ] {
            assert_eq!(complaint(field, value.clone()), field, "{value}");
        }
    }

    #[test]
    fn the_longest_of_everything_is_accepted() {
        let labels: Vec<_> = (10..42).map(|number| format!("{number}{}", "a".repeat(61))).collect();
        for (field, value) in [
            ("setupKey", json!("a".repeat(64))),
            ("hostname", json!("a".repeat(253))),
            ("token", json!("~".repeat(256))),
            ("extraDnsLabels", json!(labels)),
            ("extraDnsLabels", json!(null)),
            ("unheardOf", json!({ "a": [1, 2, 3] })),
        ] {
            assert!(with(field, value.clone()).is_ok(), "{field}: {value}");
        }
    }

    #[test]
    fn a_body_that_is_no_json_object_is_refused_without_being_quoted() {
        let deep = "[".repeat(100_000);
        for body in ["", "{", "null", "[]", "\"key\"", "{} {}", deep.as_str()] {
            assert_eq!(parse(body.as_bytes()), Err(Complaint::NotJson));
        }
        assert_eq!(parse(b"{\"hostname\": \"\xff\"}"), Err(Complaint::NotJson));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let _ = parse(&bytes);
        }

        #[test]
        fn whatever_is_accepted_fits_into_a_peer(
            key in "\\s?[\\PC]{0,70}\\s?", hostname in "[a-zA-Z0-9._ -]{0,260}", token in "[ -~]{40,260}",
            labels in prop::collection::vec("[a-z0-9-]{0,64}", 0..34),
        ) {
            let mut body = body();
            body["setupKey"] = key.clone().into();
            body["hostname"] = hostname.clone().into();
            body["token"] = token.clone().into();
            body["extraDnsLabels"] = labels.clone().into();
            if let Ok(applicant) = parse(body.to_string().as_bytes()) {
                prop_assert!((1..=253).contains(&applicant.hostname.len()));
                prop_assert_eq!(applicant.hostname, hostname);
                prop_assert_eq!(applicant.key, Digest::of_presented(presented_key(&key)));
                prop_assert_eq!(applicant.token, Digest::of(&token));
                prop_assert!(applicant.extra_dns_labels.len() <= 32);
                prop_assert_eq!(applicant.extra_dns_labels, labels);
            }
        }
    }
}
