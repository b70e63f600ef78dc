//! `make bench-enrollment`: how fast machines join, what that costs, and what a refusal costs.
//!
//! Service and controller run as in production: release builds in processes of their own, with the tokens of their
//! ServiceAccounts and the rights of deploy/. This process plays the machines. docs/performance.md explains each row of
//! the table.

mod machines;
mod measure;
mod raw;
mod service;
mod settings;
#[allow(dead_code, reason = "each benchmark needs its part of it")]
#[path = "../shared/mod.rs"]
mod shared;
mod shares;

use settings::Settings;
use shared::{audit, cluster, operator, process, report};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let settings = Settings::from_environment()?;
    let report = measure::all(&settings).await?;
    println!("\n{}", report.markdown());
    // A partial run does not replace the table in the documentation.
    if settings.is_whole() { report.write() } else { Ok(()) }
}
