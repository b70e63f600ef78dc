//! What the API server, a policy or a webhook finds wrong with an object.

use kube::core::Status;
use serde::de::IgnoredAny;

/// One thing that is wrong.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Violation {
    /// The field, such as `spec.autoGroups[1]`. Empty if it is none in particular.
    pub field: String,
    /// What is wrong, without the value of the field.
    pub sentence: String,
}

/// Each thing that the answer finds wrong. Empty if the answer has only one message for all of them.
pub fn violations(status: &Status) -> Vec<Violation> {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    let violation = |field: &str, message: &str| Violation {
        field: field.to_owned(),
        sentence: without_value(of_a_policy(message)).to_owned(),
    };
    causes.filter(|cause| !cause.message.is_empty()).map(|cause| violation(&cause.field, &cause.message)).collect()
}

/// The words of the policy, webhook or quota that has refused a request, without the name of the object before them.
pub fn of_a_policy(message: &str) -> &str {
    let openings = [" denied the request: ", " denied request: ", " is forbidden: "];
    openings.iter().find_map(|opening| message.split_once(opening)).map_or(message, |(_, words)| words)
}

/// `Invalid value: VALUE: SENTENCE` without what stands before the sentence. The value is JSON, and may be left out.
fn without_value(message: &str) -> &str {
    let Some(rest) = message.strip_prefix("Invalid value: ") else { return message };
    let mut values = serde_json::Deserializer::from_str(rest).into_iter::<IgnoredAny>();
    let sentence = match values.next() {
        Some(Ok(_)) => rest.get(values.byte_offset()..).and_then(|rest| rest.strip_prefix(": ")),
        _ => None,
    };
    sentence.unwrap_or(rest)
}
