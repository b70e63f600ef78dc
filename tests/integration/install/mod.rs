//! The ways to install of docs/install.md. The tests run the page's own commands, with the real helm and kubectl on a control
//! plane that holds nothing of the operator yet. Then the program runs as the chart says: with the arguments of its Deployment
//! and the token of its account.

mod manifests;
mod namespace;
mod site;
mod umbrella;
mod ways;

/// The sections whose commands the tests run.
const RUN: [&str; 5] = [
    "## Plain manifests",
    "## Helm template and kubectl apply",
    "## Kustomize",
    "## In a chart of your own",
    "## In one namespace",
];

#[test]
fn every_block_of_commands_of_the_page_is_run() {
    let run: usize = RUN.iter().map(|heading| site::blocks(heading, "console").len()).sum();
    assert_eq!(run, crate::harness::page("install.md").matches("```console\n").count());
}
