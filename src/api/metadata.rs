//! The labels and annotations that this project writes, and those that it never puts on a Secret.

/// Label on everything made for a key: the name of its `SetupKey`.
pub const KEY_LABEL: &str = "setupkey.dev/key";
/// Label on a Peer: the public id of the key that it joined with.
pub const KEY_ID_LABEL: &str = "setupkey.dev/key-id";

/// Prefix of the labels on a Peer that name its groups; the values are empty.
pub const GROUP_LABEL_PREFIX: &str = "group.setupkey.dev/";

/// Finalizer on a Peer while its key may still list it in `status.pending`. A Peer that is deleted in that time must not be
/// created again from its entry.
pub const PENDING_FINALIZER: &str = "setupkey.dev/pending";

/// Finalizer on a `SetupKey` whose key is at an authority, until the key there is gone or left on purpose.
pub const AUTHORITY_FINALIZER: &str = "setupkey.dev/authority";

/// Annotation on the Secret: the public id of the key it holds.
pub const ID_ANNOTATION: &str = "setupkey.dev/id";
/// Annotation on the Secret: when the key expires, RFC 3339.
pub const EXPIRES_ANNOTATION: &str = "setupkey.dev/expires";
/// Annotation on the `SetupKey`, by which people ask for a rotation: a time, RFC 3339.
pub const ROTATE_ANNOTATION: &str = "setupkey.dev/rotate-requested-at";
/// The label by which Kubernetes' tools show what manages an object.
pub const MANAGED_BY_LABEL: &str = "app.kubernetes.io/managed-by";
/// Our value of [`MANAGED_BY_LABEL`], and the field manager of our writes.
pub const MANAGER: &str = "setupkey-operator";

/// Prefixes, each a domain whose keys GitOps tools use to track ownership, or that are our own. A tracking key on
/// the Secret would make such a tool prune it or fight over it.
pub(super) const RESERVED_DOMAINS: [&str; 6] =
    ["argocd.argoproj.io", "toolkit.fluxcd.io", "helm.sh", "meta.helm.sh", "applyset.kubernetes.io", "setupkey.dev"];

/// Whole keys that are reserved for the same reason.
pub(super) const RESERVED_KEYS: [&str; 3] =
    ["app.kubernetes.io/instance", MANAGED_BY_LABEL, "kubectl.kubernetes.io/last-applied-configuration"];

/// Keys of reserved domains that are options for a tool, not tracking, and that users may set.
pub(super) const USER_OPTIONS: [&str; 3] =
    ["argocd.argoproj.io/sync-options", "argocd.argoproj.io/compare-options", "kustomize.toolkit.fluxcd.io/prune"];

/// Whether a user may have this label or annotation put on the Secret.
///
/// The CRD refuses the others when the manifest is applied; this holds even where the CRD's rule was not there yet.
pub fn allowed_on_secret(key: &str) -> bool {
    if USER_OPTIONS.contains(&key) {
        return true;
    }
    let domain = key.split_once('/').map_or("", |(domain, _)| domain);
    let of_flux = is_below(domain, "toolkit.fluxcd.io");
    !of_flux && !RESERVED_DOMAINS.contains(&domain) && !RESERVED_KEYS.contains(&key)
}

/// Whether `domain` is a subdomain of `parent`. Flux keeps one subdomain per controller.
fn is_below(domain: &str, parent: &str) -> bool {
    domain.strip_suffix(parent).is_some_and(|rest| rest.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tracking_keys_never_reach_the_secret_and_user_options_do() {
        for key in [
            "app.kubernetes.io/instance",
            "argocd.argoproj.io/instance",
            "argocd.argoproj.io/tracking-id",
            "kustomize.toolkit.fluxcd.io/name",
            "helm.toolkit.fluxcd.io/namespace",
            "helm.sh/chart",
            "meta.helm.sh/release-name",
            "applyset.kubernetes.io/part-of",
            "kubectl.kubernetes.io/last-applied-configuration",
            "setupkey.dev/key",
        ] {
            assert!(!allowed_on_secret(key), "{key} was let through");
        }
        for key in ["team", "example.com/owner", "app.kubernetes.io/name", "kustomize.toolkit.fluxcd.io/prune"] {
            assert!(allowed_on_secret(key), "{key} was refused");
        }
    }
}
