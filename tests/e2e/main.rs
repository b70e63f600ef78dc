//! The chart's own pods run the operator, and pods use the keys: on a real node, or on any cluster.
//!
//! `make e2e` runs all stories on a node of its own, `make e2e STORY=words` those whose names hold the words. With
//! `E2E_KUBECONFIG` they run on that cluster, in namespaces that they make and remove; what needs hands on the node is
//! left out then, and said so.
//!
//! Stories that only use the operator run side by side. Those that disturb it come after, one at a time.

mod cluster;
mod keys;
mod node;
mod pods;
mod release;
mod stories;
mod suite;

use std::process::ExitCode;

use suite::{Needs, Suite};

#[tokio::main]
async fn main() -> ExitCode {
    use stories::{disturbance, examples, installation, keys, mounting};
    let mut suite = Suite::from_arguments();
    suite.first(story!(installation::the_chart_installs_under_pod_security_restricted));
    suite.side_by_side(vec![
        story!(installation::metrics_are_scraped_through_the_service),
        story!(mounting::a_pod_created_before_its_key_waits_and_starts),
        story!(mounting::a_pod_reads_the_key_from_a_directory_and_exactly_the_key),
        story!(mounting::a_pod_gets_the_key_as_an_environment_variable),
        story!(keys::a_revoked_key_lets_running_pods_go_on_and_new_ones_start),
        story!(keys::a_deleted_secret_comes_back_and_the_mounted_file_follows),
        story!(keys::a_deleted_key_takes_its_secret_and_leaves_running_pods_alone),
        story!(examples::each_example_with_a_pod_does_what_it_says),
    ]);
    suite.one_by_one(vec![
        story!(disturbance::a_killed_leader_is_replaced_and_an_expiry_meanwhile_is_shown),
        story!(disturbance::an_upgrade_rolls_and_changes_no_key, Needs::AnotherImage),
        story!(disturbance::kubelet_and_api_server_restart_and_nothing_is_written, Needs::HandsOnTheNode),
        story!(installation::logs_are_read_with_kubectl_and_hold_no_key),
        story!(disturbance::uninstalled_and_installed_again_it_takes_up_every_key),
    ]);
    suite.run().await
}
