//! Stories: each shows one promise.

pub mod audit;
pub mod disturbance;
pub mod enrollment;
pub mod examples;
pub mod installation;
pub mod keys;
pub mod mounting;
pub mod netbird;
pub mod plugin;
pub mod rest;
