//! Metrics as text, in the OpenMetrics format.

use std::fmt;

use prometheus_client::{encoding::text, registry::Registry};

/// The media type of what [`text_of`] returns.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The metrics of a registry as text.
pub fn text_of(metrics: &Registry) -> Result<String, fmt::Error> {
    let mut text = String::new();
    text::encode(&mut text, metrics)?;
    Ok(text)
}
