//! What the API server says about a request, in the words of this API: without the objects, fields and values that only
//! Kubernetes knows.

use kube::core::Status;

use crate::actions::{
    rights,
    violations::{Violation, of_a_policy, violations},
};

/// Which right is missing, or what else has forbidden the request, such as a quota.
pub fn forbidden(message: &str) -> String {
    rights::missing(message).unwrap_or_else(|| of_a_policy(message).to_owned())
}

/// What is wrong with the values of a request: the violations that the rules of the CRD or an admission policy report, with
/// NetBird's name for each field.
pub fn invalid(status: &Status) -> String {
    let sentences: Vec<_> = violations(status)
        .into_iter()
        .map(|Violation { field, sentence }| match netbirds_name(&field) {
            Some(field) => format!("{field}: {sentence}"),
            None => sentence,
        })
        .collect();
    if sentences.is_empty() { of_a_policy(&status.message).to_owned() } else { sentences.join("; ") }
}

fn netbirds_name(field: &str) -> Option<&'static str> {
    let field = field.strip_prefix("spec.")?;
    let field = field.split(['[', '.']).next().unwrap_or(field);
    Some(match field {
        "name" => "name",
        "type" => "type",
        "expiresIn" => "expires_in",
        "autoGroups" => "auto_groups",
        "usageLimit" => "usage_limit",
        "ephemeral" => "ephemeral",
        "allowExtraDnsLabels" => "allow_extra_dns_labels",
        "revoked" => "revoked",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn quotas_and_webhooks_speak_for_themselves() {
        for (message, said) in [
            (
                "setupkeys.setupkey.dev \"k-x7k2p\" is forbidden: exceeded quota: none, used: 0",
                "exceeded quota: none, used: 0",
            ),
            ("admission webhook \"w.example.com\" denied the request: not on Fridays", "not on Fridays"),
            ("not today", "not today"),
        ] {
            assert_eq!(forbidden(message), said);
        }
    }

    fn of(status: Value) -> String {
        invalid(&serde_json::from_value(status).unwrap())
    }

    #[test]
    fn a_field_is_called_as_the_client_called_it_and_its_value_is_not_repeated() {
        let said = of(json!({ "code": 422, "message": "SetupKey \"k\" is invalid", "details": { "causes": [
            { "field": "spec.autoGroups[1]", "message": "Invalid value: \"a: \\\"b\": no spaces" },
            { "field": "spec.usageLimit", "message": "Invalid value: 5: too many" },
            { "field": "spec.name", "message": "Invalid value: 5 of them: too many" },
            { "field": "spec.name", "message": "Invalid value: no value is given" },
            { "field": "", "message": "something else" },
        ] } }));
        let expected = "auto_groups: no spaces; usage_limit: too many; name: 5 of them: too many; name: no value is given; something else";
        assert_eq!(said, expected);
    }

    #[test]
    fn a_policy_speaks_for_itself() {
        let message = "setupkeys.setupkey.dev \"k\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: not on Fridays";
        assert_eq!(of(json!({ "code": 422, "message": message })), "not on Fridays");
        let cause =
            json!({ "message": "ValidatingAdmissionPolicy 'p' with binding 'b' denied request: not on Fridays" });
        assert_eq!(of(json!({ "code": 422, "message": message, "details": { "causes": [cause] } })), "not on Fridays");
    }
}
