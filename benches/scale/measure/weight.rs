//! What the keys weigh below the operator: in etcd, and in the memory of etcd and the API server.

use super::MEBIBYTE;
use crate::{
    Bench,
    report::{Row, number},
    store::Size,
};

pub fn measure(bench: &Bench, empty: Size, settled: Size) -> anyhow::Result<Vec<Row>> {
    let bytes = (settled.in_use - empty.in_use) / bench.keys as f64;
    let usage = bench.cluster.usage()?;
    let resident = |what: &str, usage: crate::process::Usage| {
        Row::new(what, bench.keys, usage.resident / MEBIBYTE, "MiB")
            .detail(format!("peak {}", number(usage.peak / MEBIBYTE)))
    };
    Ok(vec![
        Row::new("etcd: in use", bench.keys, settled.in_use / MEBIBYTE, "MiB").detail(format!(
            "file {} MiB of {} MiB",
            number(settled.file / MEBIBYTE),
            number(settled.quota / MEBIBYTE)
        )),
        Row::new("etcd: bytes per key", bench.keys, bytes, ""),
        resident("etcd: memory", usage.store),
        resident("API server: memory", usage.api_server),
    ])
}
