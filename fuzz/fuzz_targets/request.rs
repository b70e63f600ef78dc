//! Any body that is sent to `POST /v1/enroll`: parsing it never panics, and an accepted request fits into a Peer.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};
use setupkey_operator::enrollment::parse;

fuzz_target!(|body: &[u8]| {
    match parse(body) {
        Ok(applicant) => {
            assert!((1..=253).contains(&applicant.hostname.len()) && applicant.hostname.is_ascii());
            let labels = &applicant.extra_dns_labels;
            assert!(labels.len() <= 32 && labels.iter().all(|label| (1..=63).contains(&label.len())));
            is_read_as_it_was_meant(body, &applicant.public_key.to_string());
        }
        // The message goes back to the client, so it must not quote the body.
        Err(complaint) => assert!(complaint.to_string().len() < 200),
    }
});

/// A public key has only one spelling, so a machine has only one Peer. A setup key is accepted in any case,
/// and with white space around it.
fn is_read_as_it_was_meant(body: &[u8], public_key: &str) {
    let mut sent: Value = serde_json::from_slice(body).expect("JSON, because it was accepted");
    assert_eq!(sent["publicKey"], json!(public_key));
    let again = |sent: &Value| parse(sent.to_string().as_bytes()).expect("what was accepted once");
    let first = again(&sent);
    let typed = sent["setupKey"].as_str().unwrap_or_default().to_ascii_lowercase();
    sent["setupKey"] = format!("\u{feff} {typed}\r\n").into();
    assert_eq!(again(&sent), first);
}
