//! NetBird's management API.

pub mod json;
