//! How far an object can be trusted.

/// Where an object comes from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Freshness {
    /// From a cache, which may be behind.
    Cached,
    /// From the API server, in this pass.
    Confirmed,
}
