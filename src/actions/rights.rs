//! Which right a caller lacks, in few words.

/// The right that the API server's message says is missing, as in "ann may not delete setupkeys.setupkey.dev in namespace n";
/// `None` if the message is about something else.
///
/// It reads messages such as `setupkeys.setupkey.dev "k" is forbidden: User "ann" cannot delete resource "setupkeys" in API
/// group "setupkey.dev" in the namespace "n"`.
pub fn missing(message: &str) -> Option<String> {
    let (_, rest) = message.split_once("User \"")?;
    let (user, rest) = rest.split_once("\" cannot ")?;
    let (verb, rest) = rest.split_once(" resource \"")?;
    let (resource, rest) = rest.split_once("\" in API group \"")?;
    let (group, rest) = rest.split_once('"')?;
    let group = if group.is_empty() { String::new() } else { format!(".{group}") };
    let namespace = rest.split_once("in the namespace \"").and_then(|(_, rest)| rest.split_once('"'));
    let place = namespace.map(|(namespace, _)| format!(" in namespace {namespace}")).unwrap_or_default();
    Some(format!("{user} may not {verb} {resource}{group}{place}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_right_is_said_in_a_few_words() {
        let message = "setupkeys.setupkey.dev \"k\" is forbidden: User \"system:serviceaccount:n:ann\" cannot delete resource \"setupkeys\" in API group \"setupkey.dev\" in the namespace \"n\": RBAC: not found";
        let said = "system:serviceaccount:n:ann may not delete setupkeys.setupkey.dev in namespace n";
        assert_eq!(missing(message).as_deref(), Some(said));
        let message = "secrets \"k\" is forbidden: User \"ann\" cannot get resource \"secrets\" in API group \"\" in the namespace \"n\"";
        assert_eq!(missing(message).as_deref(), Some("ann may not get secrets in namespace n"));
    }
}
