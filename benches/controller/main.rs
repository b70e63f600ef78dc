//! `make bench`: what the controller does and costs with many keys, on a real control plane.
//!
//! The operator runs as users run it: a release build, a process of its own, the token of its ServiceAccount, the rights
//! of deploy/rbac.yaml. What it does is learnt from outside: requests from the API server's audit log, states from a
//! watch of our own, memory and time from `/proc`. What each row of the table means is told in docs/performance.md.

mod measure;
mod observer;
mod plot;
mod raw;
mod settings;
#[allow(dead_code, reason = "each benchmark needs its part of it")]
#[path = "../shared/mod.rs"]
mod shared;

use settings::Settings;
use shared::{audit, cluster, operator, process, report};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [command, namespace, model] = arguments.as_slice()
        && command == raw::COMMAND
    {
        return raw::run(namespace, model.as_ref()).await;
    }
    let report = measure::all(&Settings::from_environment()?).await?;
    println!("\n{}", report.markdown());
    report.write()?;
    report.write_file("svg", &plot::svg(&report)?)
}
