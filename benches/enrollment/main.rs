//! `make bench-enrollment`: how fast machines join, what that costs, and what it costs to refuse them.
//!
//! Service and controller run as users run them: release builds in processes of their own, with the tokens of their
//! ServiceAccounts and the rights of deploy/. The machines are this process. What each row of the table means is told in
//! docs/performance.md.

mod machines;
mod measure;
mod raw;
mod service;
mod settings;
#[allow(dead_code, reason = "each benchmark needs its part of it")]
#[path = "../shared/mod.rs"]
mod shared;

use settings::Settings;
use shared::{audit, cluster, operator, process, report};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let settings = Settings::from_environment()?;
    let report = measure::all(&settings).await?;
    println!("\n{}", report.markdown());
    // The table in the documentation is not replaced by a part of it.
    if settings.is_whole() { report.write() } else { Ok(()) }
}
