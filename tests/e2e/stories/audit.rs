//! `kubectl setupkey audit` as a Job in the cluster, with the operator's image and the token of its pod.

use std::sync::Arc;

use k8s_openapi::api::{
    batch::v1::{CronJob, Job},
    core::v1::Pod,
};
use kube::api::PostParams;
use serde_json::json;

use crate::cluster::{Cluster, Place, all, eventually, repository};

const EXAMPLE: &str = "setupkey-audit";

/// Without a kubeconfig, the plugin works in the cluster of its pod, with the rights of the example.
pub async fn an_audit_in_the_cluster_ends_by_what_it_has_found(cluster: Arc<Cluster>) {
    let place = cluster.namespace("audit").await;
    // Its ClusterRole and binding are those of this run.
    let manifest = std::fs::read_to_string(repository().join("examples/audit-cronjob.yaml")).unwrap();
    let manifest = manifest
        .replace("setupkey-operator:0.1.0", &cluster.operator_image())
        .replace("namespace: setupkey-system", &format!("namespace: {}", place.namespace))
        .replace(EXAMPLE, &cluster.name(EXAMPLE));
    place.kubectl(&["apply", "-f", "-"], &manifest);

    place.apply_key("limited", "usageLimit: 5");
    place.ready("limited").await;
    let (code, log) = audit(&place, "in-order", Some(&["audit", "--fail-on", "warn"])).await;
    assert_eq!(code, 0, "{log}");

    place.apply_key("open", "");
    place.ready("open").await;
    // As the example says, over all namespaces.
    let (code, log) = audit(&place, "findings", None).await;
    assert_eq!(code, 2, "{log}");
    let found = |line: &&str| line.contains("SK002") && line.contains(&format!("{}/open", place.namespace));
    assert!(log.lines().any(|line| found(&line)), "{log}");
    assert!(!log.contains("error:"), "{log}");
    place.kubectl(&["delete", "-f", "-"], &manifest);
}

/// Runs a Job of the example, with other arguments if there are some. Returns its exit code and its log.
async fn audit(place: &Place<'_>, name: &str, arguments: Option<&[&str]>) -> (i32, String) {
    let cron_job = place.api::<CronJob>().get(&place.cluster.name(EXAMPLE)).await.expect("the CronJob");
    let template = cron_job.spec.expect("a spec").job_template.spec;
    let mut job = json!({ "metadata": { "name": name }, "spec": template });
    if let Some(arguments) = arguments {
        job["spec"]["template"]["spec"]["containers"][0]["args"] = json!(arguments);
    }
    let job: Job = serde_json::from_value(job).expect("a Job");
    place.api::<Job>().create(&PostParams::default(), &job).await.expect("a created Job");
    let code = eventually(&format!("the Job {}/{name} to end", place.namespace), || async {
        let pods = place.api::<Pod>().list(&all().labels(&format!("job-name={name}"))).await.ok()?;
        let statuses = pods.items.into_iter().next()?.status?.container_statuses?;
        Some(statuses.first()?.state.as_ref()?.terminated.as_ref()?.exit_code)
    })
    .await;
    (code, place.kubectl(&["logs", &format!("job/{name}")], ""))
}
