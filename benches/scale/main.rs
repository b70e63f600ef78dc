//! `make bench-scale`: what a hundred thousand settled keys cost, on a real control plane.
//!
//! The operator issues one key. The others are copies of it, each with a value and an identity of its own, which are put
//! into etcd directly: see `seed.rs`. Everything after that is measured as `make bench` does it: the operator is a release
//! build in a process of its own, and its requests are counted in the API server's audit log. docs/performance.md explains
//! each row of the table.

mod measure;
mod seed;
mod settings;
#[allow(dead_code, reason = "each benchmark needs its part of it")]
#[path = "../shared/mod.rs"]
mod shared;
mod store;

use std::time::Instant;

use settings::Settings;
use shared::{audit, cluster, observer, operator, process, report};

/// The keys and their control plane.
pub struct Bench {
    cluster: cluster::Cluster,
    store: store::Store,
    keys: usize,
    begun: Instant,
}

impl Bench {
    fn say(&self, what: &str) {
        eprintln!("[{:>4.0} s] {} keys: {what}", self.begun.elapsed().as_secs_f64(), self.keys);
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let (settings, begun) = (Settings::from_environment()?, Instant::now());
    let cluster = cluster::Cluster::start().await?;
    let store = store::Store::of(&cluster);
    let mut report = report::Report::new("scale", "make bench-scale", cluster.version.clone());
    let bench = Bench { cluster, store, keys: settings.keys, begun };
    report.rows = measure::all(&bench, &settings).await?;
    bench.say("done");
    println!("\n{}", report.markdown());
    // A quick look does not replace the table in the documentation.
    if settings.is_whole() { report.write() } else { Ok(()) }
}
