//! An administrator of one namespace installs the operator, after an administrator of the cluster did the rest.

use std::collections::BTreeSet;

use super::site::{Site, blocks, ok, refused};

const SECTION: &str = "## In one namespace";

#[tokio::test(flavor = "multi_thread")]
async fn an_administrator_of_one_namespace_installs_the_operator_with_what_the_cluster_lends() {
    let site = Site::start();
    let [for_the_cluster, in_the_namespace] = blocks(SECTION, "console").try_into().unwrap();
    let [of_the_cluster, not_held] = blocks(SECTION, "text").try_into().unwrap();
    let values = blocks(SECTION, "yaml").remove(0);
    site.write("values.yaml", &values);
    ok(site
        .run("kubectl create namespace team && kubectl create rolebinding ada -n team --clusterrole=admin --user=ada"));

    // Without the values, and then without the rights.
    let chart = "charts/setupkey-operator --namespace team";
    let said = refused(site.run_as(Some("ada"), &format!("helm install plain {chart}")));
    assert!(said.contains(of_the_cluster.trim()), "{said}");
    let scoped = format!("helm install scoped {chart} --set 'scope.namespaces={{team}}'");
    let said = refused(site.run_as(Some("ada"), &scoped));
    assert!(said.contains(of_the_cluster.trim()), "{said}");
    let said = refused(site.follow_as("ada", &in_the_namespace));
    assert!(said.contains(not_held.trim()), "{said}");
    ok(site.run_as(Some("ada"), "helm uninstall setupkey-operator --namespace team"));

    ok(site.follow(&for_the_cluster, ""));
    ok(site.follow_as("ada", &in_the_namespace));
    let operator = site.operator("team");
    site.write("key.yaml", &crate::harness::manifest("office", "usageLimit: 50"));
    // The roles of people come from the administrator of the cluster.
    ok(site.run("kubectl apply -n team --as ada -f key.yaml"));
    site.is_issued(&operator, "team", "office");

    let account = format!("--as system:serviceaccount:team:{}", operator.account);
    for (question, answer) in
        [("list secrets -n team", "yes"), ("list secrets -n default", "no"), ("list namespaces", "no")]
    {
        let said = site.run(&format!("kubectl auth can-i {question} {account}"));
        assert_eq!(String::from_utf8_lossy(&said.stdout).trim(), answer, "{question}");
    }
    // What was lent is confined by the guards.
    let status = r#"kubectl patch sk office -n team --as ada --subresource=status --type=merge -p '{"status": {"usedTimes": 7}}'"#;
    assert!(refused(site.run(status)).contains("is written by"), "Ada writes a status");
    drop(operator);

    what_belongs_to_the_cluster_is_on_the_page(&site, &values);
    site.stop();
}

/// The page names each kind, and its values switch all of them off.
fn what_belongs_to_the_cluster_is_on_the_page(site: &Site, values: &str) {
    let kinds = site.kubectl("api-resources --namespaced=false --no-headers");
    let kinds: BTreeSet<_> = kinds.lines().map(|line| line.split_whitespace().last().unwrap()).collect();
    assert!(kinds.contains("ClusterRole") && !kinds.contains("Role"), "{kinds:?}");
    let of_cluster = |flags: &str| -> BTreeSet<String> {
        let template = "helm template setupkey-operator charts/setupkey-operator --namespace team";
        let rendered = ok(site.run(&format!("{template} {flags}")));
        let found = rendered.lines().filter_map(|line| line.strip_prefix("kind: "));
        let found: BTreeSet<_> = found.map(str::to_owned).collect();
        assert!(found.contains("Deployment"), "{found:?}");
        found.into_iter().filter(|kind| kinds.contains(kind.as_str())).collect()
    };
    let page = crate::harness::page("install.md");
    let (_, table) = page.split_once("| what | why it takes more |").expect("the table");
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    let first = rows.filter_map(|row| row.split('|').nth(1)).flat_map(|cell| cell.split(','));
    let named: BTreeSet<_> =
        first.map(|kind| kind.trim().to_owned()).filter(|kind| kinds.contains(kind.as_str())).collect();
    assert_eq!(of_cluster("--set 'scope.namespaces={team}'"), named);
    site.write("values.yaml", values);
    assert_eq!(of_cluster("--values values.yaml"), BTreeSet::new());
}
