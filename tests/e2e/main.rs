//! The chart's own pods run the operator, and pods use the keys: on a real node, or on any cluster.
//!
//! `make e2e` runs all stories on a node of its own. `make e2e STORY=words` runs those whose names contain the words.
//! With `E2E_KUBECONFIG`, the stories run on that cluster, in namespaces that they create and remove. Stories that act
//! on the node itself are then skipped, with a message.
//!
//! Stories that only use the operator run side by side. Stories that disturb it run afterwards, one at a time.

mod authority;
mod cluster;
mod forward;
mod keys;
mod netbird;
mod node;
mod peers;
mod pods;
mod release;
mod stories;
mod suite;

use std::process::ExitCode;

use suite::{Needs, Suite};

#[tokio::main]
async fn main() -> ExitCode {
    use stories::{audit, disturbance, enrollment, examples, installation, keys, mounting, netbird, plugin, rest};
    let mut suite = Suite::from_arguments();
    suite.first(story!(installation::the_chart_installs_under_pod_security_restricted));
    suite.side_by_side(vec![
        // The longest stories come first.
        story!(enrollment::a_killed_ephemeral_peer_is_removed_and_another_is_not_connected, Needs::HandsOnTheNode),
        story!(netbird::netbird_agent_joins_with_the_mounted_key, Needs::NetBird),
        story!(netbird::nodes_and_pods_with_a_variable_join_netbird_as_the_examples_say, Needs::NetBird),
        story!(examples::each_example_with_a_pod_does_what_it_says),
        story!(enrollment::pods_enroll_by_the_name_of_the_service_and_are_peers),
        story!(enrollment::the_third_pod_of_a_key_for_two_ends_and_says_why),
        story!(enrollment::an_ephemeral_peer_leaves_with_its_pod),
        story!(enrollment::a_deleted_key_leaves_its_peers_and_their_pods_alone),
        story!(plugin::pods_join_with_the_manifest_that_the_plugin_prints),
        story!(plugin::pods_join_netbird_with_the_manifest_that_the_plugin_prints, Needs::NetBird),
        story!(rest::the_rest_api_shows_a_pod_what_its_service_account_may_see),
        story!(audit::an_audit_in_the_cluster_ends_by_what_it_has_found),
        story!(installation::metrics_are_scraped_through_the_service),
        story!(mounting::a_pod_created_before_its_key_waits_and_starts),
        story!(mounting::a_pod_reads_the_key_from_a_directory_and_exactly_the_key),
        story!(mounting::a_pod_gets_the_key_as_an_environment_variable),
        story!(keys::a_revoked_key_lets_running_pods_go_on_and_new_ones_start),
        story!(keys::a_deleted_secret_comes_back_and_the_mounted_file_follows),
        story!(keys::a_rotation_reaches_mounted_files_and_no_environment),
        story!(keys::a_deleted_key_takes_its_secret_and_leaves_running_pods_alone),
    ]);
    suite.one_by_one(vec![
        story!(enrollment::a_replica_is_killed_while_pods_enroll_and_each_use_is_a_peer),
        story!(disturbance::a_killed_leader_is_replaced_and_an_expiry_meanwhile_is_shown),
        story!(disturbance::an_upgrade_rolls_and_changes_no_key, Needs::AnotherImage),
        story!(disturbance::kubelet_and_api_server_restart_and_nothing_is_written, Needs::HandsOnTheNode),
        story!(installation::logs_are_read_with_kubectl_and_hold_no_key),
        story!(netbird::uninstalled_it_leaves_netbird_alone_and_deletions_wait, Needs::NetBird),
        story!(disturbance::uninstalled_and_installed_again_it_takes_up_every_key),
    ]);
    suite.run().await
}
