//! What every benchmark needs: the control plane, the programs under measurement, their cost, and the report.

pub mod audit;
pub mod cluster;
pub mod machine;
pub mod observer;
pub mod operator;
pub mod peers;
pub mod process;
pub mod report;
pub mod settings;
