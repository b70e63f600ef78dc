//! `make bench`: what the controller does and costs with many keys, on a real control plane.
//!
//! The operator runs as in production: a release build in a process of its own, with the token of its ServiceAccount
//! and the rights of deploy/rbac.yaml. It is measured from outside: requests from the API server's audit log, states
//! from a separate watch, memory and time from `/proc`. docs/performance.md explains each row of the table.

mod measure;
mod plot;
mod raw;
mod settings;
#[allow(dead_code, reason = "each benchmark needs its part of it")]
#[path = "../shared/mod.rs"]
mod shared;

use settings::Settings;
use shared::{audit, cluster, observer, operator, process, report};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [command, namespace, model] = arguments.as_slice()
        && command == raw::COMMAND
    {
        return raw::run(namespace, model.as_ref()).await;
    }
    let settings = Settings::from_environment()?;
    let report = measure::all(&settings).await?;
    println!("\n{}", report.markdown());
    // A partial run does not replace the table in the documentation.
    if !settings.is_whole() {
        return Ok(());
    }
    report.write()?;
    report.write_file("svg", &plot::svg(&report)?)
}
