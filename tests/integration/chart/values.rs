//! The values of the chart.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Helm, chart, documents, ok, template};

#[test]
fn a_wrong_value_is_refused_with_its_path() {
    for (value, path) in [
        ("controller.replicas=two", "/controller/replicas"),
        ("image.pullPolicy=Sometimes", "/image/pullPolicy"),
        ("scope.namespace=x", "/scope"),
        ("scope.namespaces={Upper}", "/scope/namespaces/0"),
        ("controller.logFormat=xml", "/controller/logFormat"),
        ("controller.extraArgs={leader-elect}", "/controller/extraArgs/0"),
        ("api.issueTimeout=0", "/api/issueTimeout"),
        ("api.tls.secret=x", "/api/tls"),
        ("policies.maxExpiresIn=30d", "/policies/maxExpiresIn"),
        ("policies.guards.peers=off", "/policies/guards/peers"),
        ("policies.guards.exempt={velero}", "/policies/guards/exempt/0"),
        ("policies.guards.exempt[0].kind=Robot,policies.guards.exempt[0].name=r", "/policies/guards/exempt/0/kind"),
        (
            "policies.guards.exempt[0].kind=ServiceAccount,policies.guards.exempt[0].name=velero",
            "/policies/guards/exempt/0",
        ),
        ("metrics.prometheusRule.expiresSoonDays=0", "/metrics/prometheusRule/expiresSoonDays"),
        ("enrollment.service.type=ExternalName", "/enrollment/service/type"),
        ("peers.lifetime=ten", "/peers/lifetime"),
        ("peers.lifetime=30s", "/peers/lifetime"),
        ("enrollment.peerLifetime=10m", "/enrollment"),
        ("networkPolicy.metricsFrom={all}", "/networkPolicy/metricsFrom/0"),
        ("networkPolicy.metricsFrom[0].pod=x", "/networkPolicy/metricsFrom/0"),
        ("controller.extraEnv={HTTPS_PROXY}", "/controller/extraEnv/0"),
        ("controller.extraEnv[0].value=x", "/controller/extraEnv/0"),
        ("authorities.hosts={https://netbird.example.com}", "/authorities/hosts/0"),
        ("authorities.hosts={a:443}", "/authorities/hosts/0"),
        ("authorities.hosts={*}", "/authorities/hosts/0"),
        ("authorities.hosts=netbird.example.com", "/authorities/hosts"),
        ("authorities.allowInsecure=no", "/authorities/allowInsecure"),
        ("networkPolicy.authorityPorts={https}", "/networkPolicy/authorityPorts/0"),
        ("nameOverride=Keys", "/nameOverride"),
        ("fullnameOverride=1keys", "/fullnameOverride"),
        ("fullnameOverride=a.b", "/fullnameOverride"),
        ("namespaceOverride=a.b", "/namespaceOverride"),
        ("global.imagePullSecrets=mirror", "/global/imagePullSecrets"),
        ("global.compatibility.openshift.adaptSecurityContext=yes", "/global/compatibility/openshift"),
        ("global.imageRegistry=5", "/global/imageRegistry"),
        ("image.registry=registry.example.com/", "/image/registry"),
        ("enrollment.replicas=-1", "/enrollment/replicas"),
        ("api.extraEnvFrom[0].secret=x", "/api/extraEnvFrom/0"),
        ("api.extraVolumes[0].emptyDir.medium=Memory", "/api/extraVolumes/0"),
        ("api.extraVolumeMounts[0].name=x", "/api/extraVolumeMounts/0"),
        ("controller.strategy.type=Slowly", "/controller/strategy/type"),
        ("controller.livenessProbe.httpGet.path=/", "/controller/livenessProbe"),
        ("controller.dnsPolicy=Mine", "/controller/dnsPolicy"),
        ("controller.revisionHistoryLimit=many", "/controller/revisionHistoryLimit"),
        ("controller.hostAliases[0].hostnames={a}", "/controller/hostAliases/0"),
        ("controller.podLabels.a=1", "/controller/podLabels/a"),
        ("api.service.ipFamilyPolicy=Both", "/api/service/ipFamilyPolicy"),
        ("metrics.service.ipFamilies={IPv5}", "/metrics/service/ipFamilies/0"),
        ("metrics.podMonitor.interval=often", "/metrics/podMonitor/interval"),
        ("podDisruptionBudget.minAvailable=half", "/podDisruptionBudget/minAvailable"),
        ("rbac.create=no", "/rbac/create"),
        ("extraObjects=all", "/extraObjects"),
        ("podSecurityContext=restricted", "/podSecurityContext"),
        ("unheardOf=1", "unheardOf"),
    ] {
        for helm in [Helm::Three, Helm::Four] {
            let output = template(helm, &["--set", value]);
            let error = String::from_utf8_lossy(&output.stderr);
            assert!(!output.status.success(), "{value} was accepted");
            assert!(error.contains(path), "{value}: {error}");
        }
    }
}

/// Each value that can be set, by its path. An empty map counts as a value, because users fill it.
fn leaves(value: &Value, path: &str) -> BTreeMap<String, Value> {
    match value.as_object().filter(|fields| !fields.is_empty()) {
        None => [(path.to_owned(), value.clone())].into(),
        Some(fields) => fields.iter().flat_map(|(name, value)| leaves(value, &format!("{path}.{name}"))).collect(),
    }
}

#[test]
fn the_readme_of_the_chart_lists_every_value_with_its_default() {
    let values = std::fs::read_to_string(chart().join("values.yaml")).unwrap();
    let values = leaves(&serde_yaml::from_str(&values).unwrap(), "");
    let readme = std::fs::read_to_string(chart().join("README.md")).unwrap();
    let row = regex::Regex::new(r"(?m)^\| `([^`]+)` \| `([^`]+)` \| [^|]+ \|$").unwrap();
    let listed =
        row.captures_iter(&readme).map(|row| (format!(".{}", &row[1]), serde_yaml::from_str(&row[2]).unwrap()));
    assert_eq!(listed.collect::<BTreeMap<String, Value>>(), values);
}

/// Both versions of Helm refuse these values with a message that contains this text.
fn refused(values: &str, text: &str) {
    for helm in [Helm::Three, Helm::Four] {
        let output = template(helm, &["--set", values]);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && error.contains(text), "{values}: {error}");
    }
}

#[test]
fn a_value_that_moved_says_where_it_is() {
    for (old, moved) in [
        ("replicas=3", "the value replicas is now controller.replicas"),
        ("resources.limits.memory=1Gi", "the value resources is now controller.resources"),
        ("controller.env[0].name=A", "the value controller.env is now controller.extraEnv"),
    ] {
        refused(old, moved);
    }
}

/// What the schema cannot say, and what would be dropped in silence or refused by the API server.
#[test]
fn values_that_do_not_fit_together_are_refused_by_name() {
    for (values, error) in [
        ("serviceAccount.create=false", "so serviceAccount.name must name an account"),
        ("api.serviceAccount.create=false", "so api.serviceAccount.name must name an account"),
        (
            "serviceAccount.name=a,enrollment.serviceAccount.name=a",
            "enrollment.serviceAccount.name is the account of another",
        ),
        ("metrics.serviceMonitor.enabled=true,metrics.service.enabled=false", "needs metrics.service.enabled"),
        ("enabled=false", "the condition setupkey-operator.enabled"),
        ("controller.extraEnv[0].name=POD_NAME", "controller.extraEnv may not hold POD_NAME"),
        ("controller.extraEnv[0].name=A,controller.extraEnv[1].name=A", "controller.extraEnv may not hold A"),
        ("api.enabled=true,api.extraVolumes[0].name=cluster", "api.extraVolumes may not hold cluster"),
        (
            "api.enabled=true,api.tls.secretName=t,api.extraVolumeMounts[0].name=a,api.extraVolumeMounts[0].mountPath=/tls",
            "api.extraVolumeMounts may not hold /tls",
        ),
    ] {
        refused(values, error);
    }
}

/// A label of the chart that a user replaced would leave a Deployment without pods, or the release without its objects.
#[test]
fn the_labels_of_the_chart_cannot_be_replaced() {
    let maps = ["extraLabels", "podLabels", "controller.podLabels", "enrollment.podLabels", "api.podLabels"];
    let monitors = ["serviceMonitor", "podMonitor", "prometheusRule", "dashboard"];
    let maps = maps.map(str::to_owned).into_iter().chain(monitors.map(|object| format!("metrics.{object}.labels")));
    for map in maps {
        for label in ["app.kubernetes.io/name", "app.kubernetes.io/component", "app.kubernetes.io/managed-by"] {
            let output = template(Helm::Four, &["--set", &format!("{map}.{}=mine", label.replace('.', "\\."))]);
            let error = String::from_utf8_lossy(&output.stderr);
            let wanted = format!("the value {map} may not hold the label {label}");
            assert!(!output.status.success() && error.contains(&wanted), "{map} {label}: {error}");
        }
    }
}

/// Every object that depends on a value.
const ALL: &str = "enrollment.enabled=true,api.enabled=true,networkPolicy.enabled=true,metrics.podMonitor.enabled=true,\
                   metrics.serviceMonitor.enabled=true,metrics.prometheusRule.enabled=true,metrics.dashboard.enabled=true";

/// The path of each value, and of each section that holds some.
fn paths(value: &Value, path: &str) -> Vec<(String, Value)> {
    let fields = value.as_object().into_iter().flatten();
    fields
        .flat_map(|(name, value)| {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            [vec![(path.clone(), value.clone())], paths(value, &path)].concat()
        })
        .collect()
}

/// Helm removes a value that is set to null, its default too. What is empty anyway stays so. A setting that goes through to
/// the pods goes. Anything else has no meaning without a value, and is an error that names it.
#[test]
fn null_is_no_value_or_an_error_that_names_it() {
    const GO_THROUGH: [&str; 7] = [
        "podSecurityContext",
        "securityContext",
        "controller.resources",
        "enrollment.resources",
        "api.resources",
        "metrics.dashboard.labels",
        "global",
    ];
    let values: Value = serde_yaml::from_str(&std::fs::read_to_string(chart().join("values.yaml")).unwrap()).unwrap();
    let all = ["--set", "crds.enabled=false", "--set", ALL];
    let usual = ok(template(Helm::Four, &all));
    let usual = documents(&usual);
    let paths = paths(&values, "");
    assert!(paths.len() > 200, "{}", paths.len());
    let check = |(path, default): &(String, Value)| {
        let output = template(Helm::Four, &[&all[..], &["--set", &format!("{path}=null")]].concat());
        let error = String::from_utf8_lossy(&output.stderr);
        let empty = matches!(default.to_string().as_str(), r#""""# | "[]" | "{}");
        let goes = GO_THROUGH.iter().any(|start| path == start || path.starts_with(&format!("{start}.")));
        if !empty && !goes {
            let wanted = format!("the value {path} is null; leave it out to get its default");
            assert!(!output.status.success() && error.contains(&wanted), "{path}: {error}");
            return;
        }
        assert!(output.status.success(), "{path}: {error}");
        let rendered = documents(std::str::from_utf8(&output.stdout).unwrap());
        let unread = empty || path.starts_with("global");
        assert_eq!(rendered == usual, unread, "{path}");
    };
    let (first, second) = paths.split_at(paths.len() / 2);
    std::thread::scope(|scope| {
        scope.spawn(|| first.iter().for_each(check));
        second.iter().for_each(check);
    });
}
