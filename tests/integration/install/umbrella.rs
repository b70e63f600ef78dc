//! A chart with the operator as a dependency, and SetupKeys of its own.

use std::{fs, process::Command};

use super::site::{Site, blocks, ok, refused};
use crate::harness::{manifest, repository, tool};

const SECTION: &str = "## In a chart of your own";

/// The page's chart, with a key of its own.
fn write_chart(write: impl Fn(&str, &str)) {
    for text in blocks(SECTION, "yaml") {
        let name = text.lines().next().unwrap().strip_prefix("# ").expect("the name of the file").to_owned();
        write(&format!("platform/{name}"), &text);
    }
    write("platform/templates/key.yaml", &manifest("office", "usageLimit: 50"));
}

/// Both Helms check all kinds first, also where the dependency brings the CRDs along.
#[tokio::test(flavor = "multi_thread")]
async fn a_chart_with_keys_and_the_operator_installs_once_the_crds_are_there() {
    let site = Site::start();
    write_chart(|file, text| site.write(file, text));
    let error = blocks(SECTION, "text").remove(0);
    ok(site.run("helm dependency build platform && kubectl create namespace early"));
    for helm in ["helm", "helm3"] {
        for crds in ["true", "false"] {
            let install = format!("install platform platform -n early --set setupkey-operator.crds.enabled={crds}");
            let said = refused(site.run(&format!("{} {install}", tool(helm).display())));
            assert!(said.contains(error.trim()), "{helm}, {crds}: {said}");
        }
    }

    ok(site.follow(&blocks(SECTION, "console")[0], ""));
    let operator = site.operator("platform");
    site.is_issued(&operator, "platform", "office");

    // The other way: the operator is a release of its own, and the chart brings its keys only.
    ok(site.run("helm install apart platform -n early --set setupkey-operator.enabled=false"));
    site.is_issued(&operator, "early", "office");
    assert_eq!(site.kubectl("get deployments -n early -o name"), "");
    ok(site.run("helm uninstall platform -n platform"));
    assert!(site.kubectl("get crds -o name").contains("setupkeys.setupkey.dev"), "the CRDs are gone");
    drop(operator);
    site.stop();
}

/// The condition of a dependency is a value of the chart itself.
#[test]
fn the_condition_of_a_dependency_switches_the_whole_chart() {
    let folder = tempfile::tempdir().unwrap();
    write_chart(|file, text| {
        let path = folder.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    });
    let charts = folder.path().join("charts");
    std::os::unix::fs::symlink(repository().join("charts"), charts).unwrap();
    for helm in ["helm", "helm3"] {
        let helm = |arguments: &[&str]| {
            let mut command = Command::new(tool(helm));
            ok(command.args(arguments).current_dir(folder.path()).env("HOME", folder.path()).output().unwrap())
        };
        helm(&["dependency", "build", "platform"]);
        for (enabled, deployments) in [("true", 1), ("false", 0)] {
            let set = format!("setupkey-operator.enabled={enabled}");
            let version = ["--kube-version", "1.33.0"];
            let rendered = helm(&[&["template", "platform", "platform", "--set", &set], &version[..]].concat());
            assert!(rendered.contains("kind: SetupKey"), "{rendered}");
            assert_eq!(rendered.matches("\nkind: Deployment\n").count(), deployments, "{set}");
        }
    }
}
