//! The CEL rules of the CRD: what the API server refuses at `kubectl apply`, each with what to do instead.

use kube::core::{Message, Reason, Rule};

use super::metadata::{RESERVED_DOMAINS, RESERVED_KEYS, USER_OPTIONS};

/// Characters of the labels for a Secret, keys and values together, and of its annotations.
const MOST_METADATA: usize = 4096;

/// What the base64 of -----BEGIN CERTIFICATE----- has in common wherever it stands.
const FIRST_LINES: [&str; 3] = [
    "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0t",
    "0tLS0tQkVHSU4gQ0VSVElGSUNBVEUtLS0tL",
    "tLS0tLUJFR0lOIENFUlRJRklDQVRFLS0tLS",
];

/// A rule for a field that keeps the value it was created with.
pub fn immutable(field: &str) -> Rule {
    Rule::new("self == oldSelf").message(immutable_message(field)).reason(Reason::FieldValueForbidden)
}

/// A rule on the whole object for an optional field whose default is `metadata.name`: a rule on the field itself is
/// not asked when the field appears or disappears.
pub fn immutable_defaulting_to_name(path: &[&str]) -> Rule {
    let effective = |object: &str| {
        let field = |depth: usize| format!("{object}.spec.{}", path[..depth].join("."));
        let present: Vec<_> = (1..=path.len()).map(|depth| format!("has({})", field(depth))).collect();
        format!("({} ? {} : {object}.metadata.name)", present.join(" && "), field(path.len()))
    };
    let name = path.join(".");
    Rule::new(format!("{} == {}", effective("self"), effective("oldSelf")))
        .message(immutable_message(&name))
        .field_path(format!(".spec.{name}"))
        .reason(Reason::FieldValueForbidden)
}

/// A rule on the whole object for the data key, whose default is `setup-key`.
pub fn secret_key_is_immutable() -> Rule {
    let effective = |object: &str| {
        format!("(has({object}.spec.secret) && has({object}.spec.secret.key) ? {object}.spec.secret.key : 'setup-key')")
    };
    Rule::new(format!("{} == {}", effective("self"), effective("oldSelf")))
        .message(immutable_message("secret.key"))
        .field_path(".spec.secret.key")
        .reason(Reason::FieldValueForbidden)
}

fn immutable_message(field: &str) -> Message {
    Message::Message(format!("{field} cannot be changed; create another SetupKey with the {field} you want"))
}

/// The key's name is a label value on what is made for it.
pub fn name_fits_a_label() -> Rule {
    Rule::new("self.metadata.name.size() <= 63")
        .message("metadata.name must be at most 63 characters, because it becomes a label value")
        .reason(Reason::FieldValueInvalid)
}

/// A Go duration in hours, minutes and seconds. The digits of each part are bounded, so that CEL's `duration` cannot overflow
/// and the message is always ours.
fn is_duration(field: &str) -> String {
    format!(
        r"{field}.matches('^([0-9]{{1,4}}(\\.[0-9]{{1,9}})?h|[0-9]{{1,6}}(\\.[0-9]{{1,9}})?m|[0-9]{{1,8}}(\\.[0-9]{{1,9}})?s)+$')"
    )
}

/// A Go duration from `least` to `most`.
fn is_between(least: &str, most: &str) -> Rule {
    let is_duration = is_duration("self");
    Rule::new(format!("{is_duration} && duration(self) >= duration('{least}') && duration(self) <= duration('{most}')"))
}

/// NetBird's API documents 86400 to 31536000 seconds: one day to 365 days.
pub fn lifetime() -> Rule {
    is_between("24h", "8760h")
    .message("expiresIn must be from 24h to 8760h, in hours, minutes and seconds: 720h or 36h30m; there is no unit for days, 30 days are 720h")
    .reason(Reason::FieldValueInvalid)
}

/// At least an hour is left on either side, so that a key that was just issued is never due.
pub fn renewal() -> Rule {
    Rule::new(format!(
        "!has(self.rotation) || !has(self.rotation.renewBefore) || !{} || ({} && duration(self.rotation.renewBefore) >= duration('1h') && duration(self.rotation.renewBefore) + duration('1h') <= duration(self.expiresIn))",
        is_duration("self.expiresIn"),
        is_duration("self.rotation.renewBefore"),
    ))
    .message("rotation.renewBefore must be from 1h to one hour less than expiresIn, in hours, minutes and seconds, such as 168h; there is no unit for days, 7 days are 168h")
    .field_path(".rotation.renewBefore")
    .reason(Reason::FieldValueInvalid)
}

/// A replaced key never outlives its expiry.
pub fn overlap() -> Rule {
    Rule::new(format!(
        "!has(self.rotation) || !{} || ({} && duration(self.rotation.overlap) <= duration(self.expiresIn))",
        is_duration("self.expiresIn"),
        is_duration("self.rotation.overlap"),
    ))
    .message("rotation.overlap must be from 0s to expiresIn, in hours, minutes and seconds, such as 24h; there is no unit for days, 2 days are 48h")
    .field_path(".rotation.overlap")
    .reason(Reason::FieldValueInvalid)
}

/// A day is the shortest lifetime of a key too.
pub fn unused() -> Rule {
    is_between("24h", "8760h")
    .message("revokeUnusedAfter must be from 24h to 8760h, in hours, minutes and seconds, such as 720h; there is no unit for days, 30 days are 720h")
    .reason(Reason::FieldValueInvalid)
}

/// A group of a key of the cluster becomes the name segment of a label key on the peers.
pub fn groups_are_label_names() -> Rule {
    Rule::new(
        "has(self.authorityRef) || !has(self.autoGroups) || self.autoGroups.all(group, group.size() <= 63 && group.matches('^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$'))",
    )
    .message(
        "without an authorityRef, each group must consist of at most 63 letters, digits, '-', '_' and '.', and begin and end with a letter or digit",
    )
    .field_path(".autoGroups")
    .reason(Reason::FieldValueInvalid)
}

/// A group of a key at NetBird is a group's name there, or its id.
pub fn groups_are_names() -> Rule {
    Rule::new(
        r"!has(self.authorityRef) || !has(self.autoGroups) || self.autoGroups.all(group, group.trim() == group && !group.matches('\\p{Cc}'))",
    )
    .message("with an authorityRef, each group is the name or id of a NetBird group, without control characters and without blanks at its ends")
    .field_path(".autoGroups")
    .reason(Reason::FieldValueInvalid)
}

/// What stands behind a key is part of the terms that it was handed out with.
pub fn authority_is_immutable() -> Rule {
    Rule::new(
        "has(self.spec.authorityRef) == has(oldSelf.spec.authorityRef) && (!has(self.spec.authorityRef) || self.spec.authorityRef == oldSelf.spec.authorityRef)",
    )
    .message(immutable_message("authorityRef"))
    .field_path(".spec.authorityRef")
    .reason(Reason::FieldValueForbidden)
}

/// The keys of the cluster end with their SetupKey.
pub fn only_authorities_retain() -> Rule {
    Rule::new("has(self.authorityRef) || !has(self.deletionPolicy) || self.deletionPolicy == 'Delete'")
        .message("deletionPolicy: Retain needs an authorityRef; without one, the key ends with its SetupKey")
        .field_path(".deletionPolicy")
        .reason(Reason::FieldValueInvalid)
}

/// The base of NetBird's API, or of what its agents connect to.
///
/// Parsers of URLs read a host that ends with a number as an address, and complete it: 10.1 is 10.0.0.1. So it must be a
/// whole address. The functions of CEL for URLs and addresses cost more than a rule may.
pub fn base_url(field: &str) -> Rule {
    const NAME: &str = "[A-Za-z0-9]([-A-Za-z0-9.]*[A-Za-z0-9])?";
    const NUMBER: &str = "[/.](0[xX][0-9A-Fa-f]*|[0-9]+)(:[0-9]+)?$";
    const PORT: &str = "(:([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]))?";
    let byte = "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])";
    let ipv4 = format!(r"({byte}\\.){{3}}{byte}");
    let (word, words) = ("[0-9A-Fa-f]{1,4}", "([0-9A-Fa-f]{1,4}:)");
    let ipv6 = format!(r"\\[({words}{{7}}{word}|({words}{{0,6}}{word})?::({words}{{0,6}}({word}|{ipv4}))?)\\]");
    Rule::new(format!(
        "self.matches('^https?://({NAME}|{ipv6}){PORT}$') && (!self.matches('{NUMBER}') || self.matches('^https?://{ipv4}(:[0-9]+)?$'))"
    ))
    .message(Message::Message(format!(
        "{field} must be https://, a host and at most a port, such as https://api.netbird.io or https://netbird.example.com:8443; without a path, a user or a query"
    )))
    .reason(Reason::FieldValueInvalid)
}

/// How often the keys at an authority are listed.
pub fn interval() -> Rule {
    is_between("30s", "1h")
        .message("netbird.interval must be from 30s to 1h, such as 60s or 5m")
        .reason(Reason::FieldValueInvalid)
}

/// The field has no format "byte": CEL would decode it by the alphabet of URLs and refuse each bundle whose base64 holds '+'
/// or '/'. So the first line of a certificate is looked for in the base64, where it has three spellings, by its place in the
/// text. The last character must have no bits to spare, as decoders of the operator's kind ask for.
pub fn pem_certificates() -> Rule {
    const BASE64: &str = "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?$";
    let begins = FIRST_LINES.map(|line| format!("self.contains('{line}')")).join(" || ");
    Rule::new(format!("self.matches('{BASE64}') && ({begins})"))
        .message(
            "netbird.caBundle must be the base64 of certificates in PEM, which begin with -----BEGIN CERTIFICATE-----; without line breaks in the base64",
        )
        .reason(Reason::FieldValueInvalid)
}

/// It becomes part of a URL.
pub fn account_id() -> Rule {
    Rule::new("self.matches('^[-A-Za-z0-9_]+$')")
        .message("netbird.account must be an account's id: letters, digits, '-' and '_'")
        .reason(Reason::FieldValueInvalid)
}

/// NetBird refuses a one-off key with a larger limit instead of ignoring it.
pub fn one_off_is_used_once() -> Rule {
    Rule::new("self.type != 'one-off' || self.usageLimit <= 1")
        .message("a one-off key can be used once; leave usageLimit out or use type: reusable")
        .field_path(".usageLimit")
        .reason(Reason::FieldValueInvalid)
}

/// What a peer joined with is history.
pub fn peer_is_immutable() -> Rule {
    Rule::new("self == oldSelf")
        .message("the spec of a Peer cannot be changed; delete the Peer and let the machine join again")
        .reason(Reason::FieldValueForbidden)
}

/// Other controllers may add conditions, but must leave room for Ready, Valid and Stalled.
pub fn room_for_our_conditions() -> Rule {
    Rule::new("self.filter(condition, !(condition.type in ['Ready', 'Valid', 'Stalled'])).size() <= 16")
        .message("a SetupKey may have at most 16 conditions besides Ready, Valid and Stalled")
        .reason(Reason::FieldValueInvalid)
}

/// The name is printed in terminals, logs and tables.
pub fn no_control_characters(field: &str) -> Rule {
    Rule::new(r"!self.matches('\\p{Cc}')")
        .message(Message::Message(format!(
            "{field} may not contain control characters, such as line breaks, tabs and escape sequences"
        )))
        .reason(Reason::FieldValueInvalid)
}

/// Helm 3 and 4 keep their releases in Secrets of this name. One that holds no release blocks `helm upgrade`. Source: helm,
/// pkg/storage/storage.go, makeKey.
pub fn secret_is_not_helms() -> Rule {
    Rule::new(
        "!(has(self.spec.secret) && has(self.spec.secret.name) ? self.spec.secret.name : self.metadata.name).startsWith('sh.helm.release.v1.')",
    )
    .message("secret.name may not begin with sh.helm.release.v1., where Helm keeps its releases; give the Secret another secret.name")
    .field_path(".spec.secret.name")
    .reason(Reason::FieldValueForbidden)
}

/// The name of the Secret.
pub fn dns_subdomain() -> Rule {
    Rule::new("!format.dns1123Subdomain().validate(self).hasValue()")
        .message("secret.name must be a DNS name: lower-case letters, digits, '-' and '.', beginning and ending with a letter or digit")
        .reason(Reason::FieldValueInvalid)
}

/// What a key in the data of a Secret must match. It is also the name of the file in a pod that mounts the Secret.
const IS_DATA_KEY: &str = "matches('^[-._a-zA-Z0-9]+$')";

fn is_data_key(name: &str) -> String {
    format!("{name}.{IS_DATA_KEY} && !{name}.startsWith('..') && {name} != '.'")
}

/// A key in the data of the Secret.
pub fn data_key(field: &str) -> Rule {
    Rule::new(is_data_key("self"))
        .message(Message::Message(format!("{field} must be a file name of letters, digits, '-', '_' and '.'")))
        .reason(Reason::FieldValueInvalid)
}

/// The same for each of a list.
pub fn data_keys() -> Rule {
    Rule::new(format!("self.all(alias, {})", is_data_key("alias")))
        .message("each of secret.aliases must be a file name of letters, digits, '-', '_' and '.'")
        .reason(Reason::FieldValueInvalid)
}

/// The data key that holds the setup key, with its default.
const PRIMARY: &str = "(has(self.key) ? self.key : 'setup-key')";

/// An alias names another data key.
pub fn aliases_differ() -> Rule {
    Rule::new(format!("!has(self.aliases) || !({PRIMARY} in self.aliases)"))
        .message("secret.aliases may not hold secret.key (default setup-key), which holds the setup key already")
        .field_path(".aliases")
        .reason(Reason::FieldValueInvalid)
}

/// The URL and the setup key cannot be in one place.
pub fn url_key_differs() -> Rule {
    Rule::new(format!(
        "!has(self.managementUrlKey) || (self.managementUrlKey != {PRIMARY} && !(has(self.aliases) && self.managementUrlKey in self.aliases))"
    ))
    .message("secret.managementUrlKey must differ from secret.key (default setup-key) and from each of secret.aliases, which hold the setup key")
    .field_path(".managementUrlKey")
    .reason(Reason::FieldValueInvalid)
}

/// Keys of the cluster have no server.
pub fn only_authorities_have_a_url() -> Rule {
    Rule::new("has(self.authorityRef) || !has(self.secret) || !has(self.secret.managementUrlKey)")
        .message("secret.managementUrlKey needs an authorityRef, whose URL it holds")
        .field_path(".secret.managementUrlKey")
        .reason(Reason::FieldValueInvalid)
}

/// Labels and annotations have keys of the same form.
pub fn qualified_keys(field: &str) -> Rule {
    Rule::new("self.all(key, !format.qualifiedName().validate(key).hasValue())")
        .message(Message::Message(format!(
            "each key of secret.{field} must be a qualified name, such as team or example.com/team"
        )))
        .reason(Reason::FieldValueInvalid)
}

/// Every copy of a SetupKey and of its Secret holds them: in etcd, in the controller and in every cache of the cluster.
pub fn little_metadata(field: &str) -> Rule {
    Rule::new(format!("self.map(key, key.size() + self[key].size()).sum() <= {MOST_METADATA}"))
        .message(Message::Message(format!(
            "secret.{field} may have at most {MOST_METADATA} characters in all, keys and values together; keep longer texts elsewhere, such as in a ConfigMap"
        )))
        .reason(Reason::FieldValueInvalid)
}

/// Values of labels; annotations may hold any text.
pub fn label_values() -> Rule {
    Rule::new("self.all(key, !format.labelValue().validate(self[key]).hasValue())")
        .message("each value of secret.labels must be a label value: at most 63 letters, digits, '-', '_' and '.', beginning and ending with a letter or digit")
        .reason(Reason::FieldValueInvalid)
}

/// The same question as [`super::metadata::allowed_on_secret`], asked by the API server.
pub fn no_reserved_keys(field: &str) -> Rule {
    let domains = RESERVED_DOMAINS.map(|domain| match domain {
        "toolkit.fluxcd.io" => format!("([^/]*\\\\.)?{}", escape(domain)),
        _ => escape(domain),
    });
    let keys = RESERVED_KEYS.map(escape);
    let options = USER_OPTIONS.map(|key| format!("'{key}'"));
    Rule::new(format!(
        "self.all(key, key in [{}] || !key.matches('^(({})/.*|{})$'))",
        options.join(", "),
        domains.join("|"),
        keys.join("|"),
    ))
    .message(Message::Message(format!(
        "secret.{field} may not hold keys of setupkey.dev, nor keys by which Argo CD, Flux, Helm or kubectl track objects, or they would prune the Secret or fight over it; of theirs only {} may be set",
        USER_OPTIONS.join(", ")
    )))
    .reason(Reason::FieldValueForbidden)
}

/// A domain as a regular expression inside a CEL string.
fn escape(domain: &str) -> String {
    domain.replace('.', "\\\\.")
}
