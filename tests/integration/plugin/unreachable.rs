//! Clusters that are not there, and the ways to those that are.

use std::{net::TcpListener, os::unix::fs::PermissionsExt, process::Command, time::Instant};

use control_plane::{Authority, ControlPlane, Options};
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose};
use serde_json::{Value, json};

use super::{Person, Said};
use crate::{
    connections::relay::{Kind, Relay},
    harness::{Cluster, crds, kubectl, setup_key_crd},
};

/// NetBird's own resource of the same kind and plural.
const NETBIRD_CRD: &str = "{
    apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: setupkeys.netbird.io},
    spec: {
        group: netbird.io, scope: Namespaced,
        names: {kind: SetupKey, listKind: SetupKeyList, plural: setupkeys, singular: setupkey},
        versions: [{name: v1alpha1, served: true, storage: true, schema: {openAPIV3Schema: {
            type: object, x-kubernetes-preserve-unknown-fields: true,
        }}}],
    },
}";

fn kubeconfig() -> Value {
    let view = kubectl().args(["config", "view", "--raw", "-o", "json"]).output().expect("kubectl runs");
    serde_json::from_slice(&view.stdout).expect("a kubeconfig")
}

/// A kubeconfig whose server is at this address.
fn server_at(address: &str) -> Person {
    let mut kubeconfig = kubeconfig();
    kubeconfig["clusters"][0]["cluster"]["server"] = json!(format!("https://{address}"));
    Person::of(&kubeconfig)
}

#[tokio::test(flavor = "multi_thread")]
async fn plugin_without_a_cluster_says_what_to_do() {
    let person = Person::of(&kubeconfig());
    let used = person.kubeconfig();
    let used = used.to_str().unwrap();
    let missing = person.runs(&["list", "--kubeconfig", "/none"]);
    let place = "--kubeconfig /none cannot be used: failed to read kubeconfig from '\"/none\"': No such file";
    assert!(missing.fails().starts_with(place), "{missing:?}");
    let context = person.runs(&["list", "--context", "prod"]);
    let there = kubeconfig()["contexts"][0]["name"].clone();
    assert_eq!(
        context.fails(),
        format!("KUBECONFIG {used} cannot be used: it has no context \"prod\"; it has {there}")
    );
    let mut homeless = person.kubectl();
    homeless.env("KUBECONFIG", "").env("HOME", person.folder.path()).args(["setupkey", "list"]);
    assert_eq!(
        Said::by(&mut homeless).fails(),
        "there is no cluster to work with: give --kubeconfig, or set KUBECONFIG to a kubeconfig file"
    );
    let nonsense = person.folder.path().join("nonsense");
    std::fs::write(&nonsense, "nonsense").unwrap();
    let nonsense = person.runs(&["list", "--kubeconfig", nonsense.to_str().unwrap()]);
    assert!(nonsense.fails().contains("/nonsense cannot be used: "), "{nonsense:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn plugin_does_not_wait_for_a_server_that_is_not_there() {
    // A port that was free a moment ago refuses connections.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let refused = server_at(&address).runs(&["list", "-n", "team"]);
    let sentence = "could not list SetupKeys of namespace team: the API server cannot be reached: tcp connect error: Connection refused (os error 111)";
    assert_eq!(refused.fails(), sentence);

    // It accepts the connection, and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let person = server_at(&silent.local_addr().unwrap().to_string());
    for (words, attempt) in [
        (["list", "-A"].as_slice(), "list SetupKeys of all namespaces"),
        (&["revoke", "office", "-n", "team"], "read SetupKey team/office"),
        (&["version"], "read the version of the cluster"),
    ] {
        let began = Instant::now();
        let said = person.runs(&[words, &["--request-timeout", "1s"]].concat());
        assert_eq!(said.fails(), format!("could not {attempt}: the API server has not answered within 1 s"));
        // A busy machine takes its time too, but not the 10 s of the default.
        assert!(began.elapsed().as_secs_f64() < 8.0, "{:?}", began.elapsed());
    }
}

/// Each way to the cluster that a kubeconfig can describe.
#[tokio::test(flavor = "multi_thread")]
async fn plugin_takes_every_way_to_the_cluster() {
    let cluster = Cluster::for_test("plugin-ways").await;
    cluster.apply("office", "");
    let name = "setupkey.setupkey.dev/office\n";

    // An exec plugin, as for EKS and GKE. It is found beside the kubeconfig.
    let person = Person::with(&cluster, |kubeconfig| {
        let token = kubeconfig["users"][0]["user"]["token"].clone();
        assert!(token.is_string(), "the administrator has a token");
        kubeconfig["users"][0]["user"] = json!({ "exec": {
            "apiVersion": "client.authentication.k8s.io/v1", "command": "./login.sh", "interactiveMode": "Never",
            "env": [{ "name": "TOKEN", "value": token }],
        } });
    });
    let login = person.folder.path().join("login.sh");
    let script = "#!/bin/sh\nprintf '{\"apiVersion\":\"client.authentication.k8s.io/v1\",\"kind\":\"ExecCredential\",\"status\":{\"token\":\"%s\"}}' \"$TOKEN\"\n";
    std::fs::write(&login, script).unwrap();
    std::fs::set_permissions(&login, PermissionsExt::from_mode(0o700)).unwrap();
    assert_eq!(person.runs(&["list", "-o", "name"]).ok(), name);
    std::fs::write(&login, "#!/bin/sh\nexit 3\n").unwrap();
    let failed = person.runs(&["list"]);
    assert!(failed.fails().contains("login.sh"), "{failed:?}");

    // A proxy.
    let server = kubeconfig()["clusters"][0]["cluster"]["server"].clone();
    let server = server.as_str().unwrap().trim_start_matches("https://").parse().unwrap();
    let proxy = Relay::start(Kind::Http, server).await;
    let person = Person::with(&cluster, |kubeconfig| {
        let entry = &mut kubeconfig["clusters"][0]["cluster"];
        entry["server"] = json!("https://kube.example.invalid:6443");
        entry["tls-server-name"] = json!("127.0.0.1");
        entry["proxy-url"] = json!(format!("http://{}", proxy.address));
    });
    assert_eq!(person.runs(&["list", "-o", "name"]).ok(), name);
    assert!(proxy.connections() > 0);

    // Several files: users in one, clusters and contexts in the other, and one that is not there in between.
    let person = Person::with(&cluster, |_| {});
    let whole: Value = serde_json::from_slice(&std::fs::read(person.kubeconfig()).unwrap()).unwrap();
    let part = |file: &str, keys: &[&str]| {
        let mut part = whole.clone();
        part.as_object_mut().unwrap().retain(|key, _| keys.contains(&key.as_str()));
        let path = person.folder.path().join(file);
        std::fs::write(&path, part.to_string()).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let first = part("first", &["apiVersion", "kind", "users"]);
    let second = part("second", &["clusters", "contexts", "current-context"]);
    let mut parts = person.kubectl();
    parts.env("KUBECONFIG", format!("{first}::{second}")).args(["setupkey", "list", "-o", "name"]);
    assert_eq!(Said::by(&mut parts).ok(), name);
}

/// One control plane for all that changes the kinds of a cluster, and that needs flags of its own.
#[tokio::test(flavor = "multi_thread")]
async fn plugin_knows_a_cluster_without_keys_and_one_with_those_of_another_kind() {
    let authority = Authority::named("people").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("people.pem");
    std::fs::write(&file, authority.pem()).unwrap();
    let api_server_args = vec![format!("--client-ca-file={}", file.display())];
    let mut own = ControlPlane::start(Options { api_server_args, ..Options::default() }).unwrap();
    let administrator = |arguments: &[&str], input: &str| {
        let mut command = Command::new(own.kubectl());
        command.arg("--kubeconfig").arg(own.kubeconfig()).args(arguments);
        let output = crate::harness::run(command, input);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let view = administrator(&["config", "view", "--raw", "-o", "json"], "");
    let mut kubeconfig: Value = serde_json::from_str(&view).unwrap();
    let person = Person::of(&kubeconfig);

    let without = |verb: &[&str], attempt: &str| {
        let sentence = format!(
            "could not {attempt}: the cluster has no such resource; install the CRDs of setupkey-operator, or choose another --context"
        );
        assert_eq!(person.runs(verb).fails(), sentence);
    };
    let nothing_is_there = || {
        without(&["list", "-A"], "list SetupKeys of all namespaces");
        without(&["revoke", "office"], "read SetupKey default/office");
        without(&["revoke", "--all"], "list SetupKeys of namespace default");
        assert!(person.runs(&["version"]).ok().contains("SetupKeys:   not installed\n"));
    };
    nothing_is_there();
    administrator(&["apply", "-f", "-"], NETBIRD_CRD);
    administrator(&["wait", "--for=condition=Established", "crd/setupkeys.netbird.io"], "");
    let theirs = "{apiVersion: netbird.io/v1alpha1, kind: SetupKey, metadata: {name: theirs, namespace: default}}";
    administrator(&["apply", "-f", "-"], theirs);
    nothing_is_there();
    // Another resource of the group is none of the keys.
    administrator(&["apply", "--server-side", "-f", crds().join("setupkey.dev_peers.yaml").to_str().unwrap()], "");
    administrator(&["wait", "--for=condition=Established", "crd/peers.setupkey.dev"], "");
    nothing_is_there();
    administrator(&["apply", "--server-side", "-f", setup_key_crd().to_str().unwrap()], "");
    administrator(&["wait", "--for=condition=Established", "crd/setupkeys.setupkey.dev"], "");
    administrator(&["apply", "-f", "-"], &crate::harness::manifest("ours", ""));
    assert_eq!(person.runs(&["list", "-A", "-o", "name"]).ok(), "setupkey.setupkey.dev/ours\n");
    let wrong = person.runs(&["revoke", "theirs"]);
    assert!(wrong.fails().starts_with("there is no SetupKey default/theirs"), "{wrong:?}");
    assert!(person.runs(&["version"]).ok().contains("SetupKeys:   setupkey.dev/v1alpha1\n"));

    // A client certificate, in the kubeconfig and in files.
    let mut ann = CertificateParams::default();
    ann.distinguished_name.push(DnType::CommonName, "ann");
    ann.distinguished_name.push(DnType::OrganizationName, "system:masters");
    ann.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let ann = authority.sign(ann).unwrap();
    let (certificate, key) = (folder.path().join("ann.pem"), folder.path().join("ann.key"));
    std::fs::write(&certificate, &ann.certificate).unwrap();
    std::fs::write(&key, &ann.key).unwrap();
    kubeconfig["users"][0]["user"] = json!({ "client-certificate": certificate, "client-key": key });
    assert_eq!(Person::of(&kubeconfig).runs(&["list", "-o", "name"]).ok(), "setupkey.setupkey.dev/ours\n");
    kubeconfig["users"][0]["user"] = json!({ "token": "wrong" });
    assert_eq!(
        Person::of(&kubeconfig).runs(&["list"]).fails(),
        "could not list SetupKeys of namespace default: the cluster does not accept your credentials; log in again"
    );
    own.stop();
}
