//! `kubectl setupkey revoke` and `unrevoke`.

use serde_json::json;

use super::{Person, Said};
use crate::harness::Cluster;

/// Which of these keys are revoked.
async fn revoked(cluster: &Cluster, names: &[&str]) -> Vec<bool> {
    let mut revoked = Vec::new();
    for name in names {
        revoked.push(cluster.keys().get(name).await.unwrap().spec.revoked);
    }
    revoked
}

#[tokio::test(flavor = "multi_thread")]
async fn plugin_revoke_stops_keys_and_unrevoke_brings_them_back() {
    let cluster = Cluster::for_test("plugin-revoke").await;
    let person = Person::administrator(&cluster);
    let operator = cluster.start_operator().await;
    for (name, label) in [("office", "vpn"), ("kiosks", "vpn"), ("lab", "dev")] {
        cluster.apply(name, "usageLimit: 3");
        cluster.ready(name).await;
        cluster.kubectl_ok(&["label", "sk", name, &format!("team={label}")], "");
    }
    assert_eq!(person.runs(&["revoke", "office"]).ok(), "setupkey office: revoked\n");
    assert_eq!(cluster.keys().get("office").await.unwrap().status.unwrap().valid, Some(false), "not reported yet");
    assert_eq!(person.runs(&["revoke", "office"]).ok(), "setupkey office: revoked\n", "it is revoked already");
    assert_eq!(person.runs(&["unrevoke", "sk/office", "office"]).ok(), "setupkey office: valid\n");
    let said = person.runs(&["revoke", "-l", "team=vpn"]);
    assert_eq!(said.ok(), "setupkey kiosks: revoked\nsetupkey office: revoked\n");
    assert_eq!(revoked(&cluster, &["office", "kiosks", "lab"]).await, [true, true, false]);
    let said = person.runs(&["unrevoke", "--all"]);
    assert_eq!(said.ok(), "setupkey kiosks: valid\nsetupkey lab: valid\nsetupkey office: valid\n");

    let fields = cluster.keys().get("office").await.unwrap().metadata.managed_fields.unwrap();
    let ours = fields.iter().find(|entry| entry.manager.as_deref() == Some("kubectl-setupkey")).expect("our writes");
    let written = serde_json::to_value(&ours.fields_v1).unwrap();
    assert_eq!(written["f:spec"], json!({ "f:revoked": {} }), "more was written than spec.revoked");
    operator.stop().await;

    let said = person.runs(&["revoke", "office", "--timeout", "1s"]);
    let expected = "setupkey office is written as revoked, and is not reported so after 1s: the operator has not reported yet (is it running?)";
    assert_eq!(said.fails(), expected);
    assert_eq!(revoked(&cluster, &["office"]).await, [true]);
    let said = person.runs(&["revoke", "office", "--timeout", "0s"]);
    assert!(said.fails().starts_with("setupkey office is written as revoked, and is not reported so: "), "{said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn plugin_revoke_changes_nothing_if_a_name_is_wrong() {
    let cluster = Cluster::for_test("plugin-revoke-names").await;
    let (person, namespace) = (Person::administrator(&cluster), cluster.namespace.as_str());
    let none = person.runs(&["revoke", "office"]);
    let expected = format!(
        "there is no SetupKey {namespace}/office, and none at all in namespace {namespace}: give -n with another namespace"
    );
    assert_eq!(none.fails(), expected);
    cluster.apply_quickly("office", json!({})).await;
    cluster.apply_quickly("lab", json!({})).await;
    for verb in ["revoke", "unrevoke", "rotate"] {
        let said = person.runs(&[verb, "lab", "offcie"]);
        assert_eq!(said.fails(), format!("there is no SetupKey {namespace}/offcie; did you mean office?"), "{verb}");
        for (mixture, why) in [
            (vec![verb, "office", "--all"], "cannot be used with"),
            (vec![verb, "office", "-l", "a=b"], "cannot be used with"),
            (vec![verb, "--all", "-l", "a=b"], "cannot be used with"),
            (vec![verb], "required"),
            (vec![verb, "-l", ""], "it is empty"),
            (vec![verb, "Office"], "the name of a SetupKey has 1 to 63"),
        ] {
            let refused = person.runs(&mixture);
            assert!(refused.is_refused().contains(why), "{mixture:?}: {}", refused.err);
        }
        let empty = person.runs(&[verb, "-l", "team=guest"]);
        let nothing = format!("No SetupKeys found in namespace {namespace}.\n");
        assert_eq!((empty.code, empty.out.as_str(), empty.err.as_str()), (0, "", nothing.as_str()));
    }
    for name in ["office", "lab"] {
        let key = cluster.keys().get(name).await.unwrap();
        assert_eq!(key.metadata.generation, Some(1), "{name} was changed");
        assert!(key.metadata.annotations.unwrap_or_default().is_empty(), "{name} was changed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn plugin_revoke_of_all_does_what_it_may() {
    let cluster = Cluster::for_test("plugin-revoke-some").await;
    let namespace = cluster.namespace.as_str();
    let operator = cluster.start_operator().await;
    for name in ["a", "b", "c"] {
        cluster.apply(name, "usageLimit: 3");
        cluster.ready(name).await;
    }
    let some = Person::with_rights(&cluster, "some", &[("list", "setupkeys.setupkey.dev")]);
    let names = ["--resource-name=a", "--resource-name=c"];
    let role = [&["create", "role", "some", "--verb=patch", "--resource=setupkeys.setupkey.dev"], &names[..]].concat();
    cluster.kubectl_ok(&role, "");
    let account = format!("--serviceaccount={namespace}:some");
    cluster.kubectl_ok(&["create", "rolebinding", "some", "--role=some", &account], "");
    let said = some.runs(&["revoke", "--all"]);
    assert_eq!((said.code, said.out.as_str()), (1, "setupkey a: revoked\nsetupkey c: revoked\n"));
    let expected = format!(
        "error: could not change SetupKey {namespace}/b: system:serviceaccount:{namespace}:some may not patch setupkeys.setupkey.dev in namespace {namespace}; ask an administrator for that right\n"
    );
    assert_eq!(said.err, expected);
    assert_eq!(revoked(&cluster, &["a", "b", "c"]).await, [true, false, true]);

    // The right to get is enough to wait, as for a caller without the right to list.
    let one = Person::with_rights(&cluster, "one", &[("get,patch", "setupkeys.setupkey.dev")]);
    assert_eq!(one.runs(&["unrevoke", "a", "c"]).ok(), "setupkey a: valid\nsetupkey c: valid\n");
    let guest = Person::with_rights(&cluster, "guest", &[]);
    assert!(guest.runs(&["revoke", "a"]).fails().contains("guest may not get setupkeys.setupkey.dev"));
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn plugin_revoke_is_not_ended_by_a_closed_pipe() {
    let cluster = Cluster::for_test("plugin-revoke-pipe").await;
    let person = Person::administrator(&cluster);
    let operator = cluster.start_operator().await;
    let names: Vec<_> = (0..20).map(|number| format!("key-{number:02}")).collect();
    for name in &names {
        cluster.apply_quickly(name, json!({})).await;
    }
    let mut shell = std::process::Command::new("bash");
    for (name, value) in person.kubectl().get_envs() {
        value.map(|value| shell.env(name, value));
    }
    let line = format!("set -o pipefail; {:?} setupkey revoke --all | true", person.kubectl().get_program());
    let said = Said::by(shell.args(["-c", &line]));
    assert_eq!((said.code, said.err.as_str()), (0, ""), "{said:?}");
    for name in &names {
        assert!(cluster.keys().get(name).await.unwrap().spec.revoked, "{name} is not revoked");
    }
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn plugin_writes_warn_where_a_gitops_tool_manages_the_key() {
    let cluster = Cluster::for_test("plugin-gitops").await;
    let (person, namespace) = (Person::administrator(&cluster), cluster.namespace.as_str());
    let operator = cluster.start_operator().await;
    let manifest = |name: &str| {
        json!({ "apiVersion": "setupkey.dev/v1alpha1", "kind": "SetupKey", "metadata": { "name": name }, "spec": {} })
            .to_string()
    };
    for name in ["argo", "flux", "hands"] {
        let manager = if name == "flux" { "kustomize-controller" } else { "kubectl" };
        let manager = format!("--field-manager={manager}");
        cluster.kubectl_ok(&["apply", "--server-side", &manager, "-f", "-"], &manifest(name));
        cluster.ready(name).await;
    }
    let tracking = format!("argocd.argoproj.io/tracking-id=app:setupkey.dev/SetupKey:{namespace}/argo");
    cluster.kubectl_ok(&["annotate", "sk", "argo", &tracking], "");
    for (name, tool) in [("argo", "Argo CD"), ("flux", "Flux")] {
        for (arguments, warning) in [
            (vec!["revoke", name], "may put spec.revoked back: change it in Git too"),
            (vec!["unrevoke", name], "may put spec.revoked back: change it in Git too"),
            (
                vec!["rotate", name],
                "may put the annotation setupkey.dev/rotate-requested-at back: change it in Git too",
            ),
            (
                vec!["rotate", name, "--now"],
                "may put spec.rotation.overlap back before the replaced keys have ended: suspend it meanwhile",
            ),
        ] {
            let said = person.runs(&arguments);
            let expected = format!("warning: {tool} manages SetupKey {namespace}/{name} and {warning}\n");
            assert_eq!((said.code, said.err.as_str()), (0, expected.as_str()), "{arguments:?}: {}", said.out);
        }
    }
    person.runs(&["revoke", "hands"]).ok();
    operator.stop().await;
}
