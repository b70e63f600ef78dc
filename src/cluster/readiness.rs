//! Whether the caches of a process are filled.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Not ready until the caches of all expected scopes are filled.
#[derive(Debug)]
pub struct Readiness {
    missing: AtomicUsize,
}

impl Default for Readiness {
    fn default() -> Self {
        Self { missing: AtomicUsize::new(usize::MAX) }
    }
}

impl Readiness {
    /// Sets the number of scopes.
    pub(crate) fn expect(&self, scopes: usize) {
        self.missing.store(scopes, Ordering::Release);
    }

    /// Counts one more scope whose caches are filled.
    pub(crate) fn reached(&self) {
        if self.missing.fetch_sub(1, Ordering::AcqRel) == 1 {
            tracing::info!("the caches are filled");
        }
    }

    /// Whether all caches are filled.
    pub fn is_ready(&self) -> bool {
        self.missing.load(Ordering::Acquire) == 0
    }

    /// Fails with the reason while the process is not ready, for `/readyz`.
    pub fn check(&self) -> Result<(), &'static str> {
        if self.is_ready() { Ok(()) } else { Err("the caches are not filled yet") }
    }
}
