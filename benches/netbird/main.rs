//! `make bench-netbird`: what keys at NetBird cost, with a real NetBird server on the same machine.
//!
//! The operator runs as in production: a release build in a process of its own, with the token of its ServiceAccount and the
//! rights of deploy/rbac.yaml. Its requests to the API server are counted there, and its calls to NetBird by its own metrics,
//! which are compared with what NetBird has in the end. docs/performance.md explains each row of the table.

mod account;
mod calls;
mod creation;
mod raw;
mod settings;
mod settled;
#[allow(dead_code, reason = "each benchmark needs its part of it")]
#[path = "../shared/mod.rs"]
mod shared;

use std::time::Instant;

use account::Account;
use settings::Settings;
use shared::{audit, cluster, observer, operator, process, report};

/// A control plane, and the NetBird account in which its keys are.
pub struct Bench {
    cluster: cluster::Cluster,
    account: Account,
    settings: Settings,
    begun: Instant,
}

impl Bench {
    fn say(&self, what: &str) {
        eprintln!("[{:>4.0} s] {what}", self.begun.elapsed().as_secs_f64());
    }

    /// How long an operation on so many keys may take.
    fn limit(&self, keys: usize) -> std::time::Duration {
        std::time::Duration::from_secs(120 + keys as u64 / 10)
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [command, namespace, model] = arguments.as_slice()
        && command == raw::COMMAND
    {
        return raw::run(namespace, model.as_ref()).await;
    }
    let (settings, begun) = (Settings::from_environment()?, Instant::now());
    let cluster = cluster::Cluster::start().await?;
    let account = Account::create(&cluster).await?;
    let mut report = report::Report::new("netbird", "make bench-netbird", cluster.version.clone());
    let bench = Bench { cluster, account, settings, begun };
    report.rows.extend(creation::measure(&bench).await?);
    if bench.settings.settled > 0 {
        report.rows.extend(settled::measure(&bench).await?);
    }
    println!("\n{}", report.markdown());
    // A partial run does not replace the table in the documentation.
    if bench.settings.is_whole() { report.write() } else { Ok(()) }
}
