//! Whether a process is ready.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Whether the caches are filled. Not ready until every scope that is expected has been reached.
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
    /// Says how many scopes there are.
    pub(crate) fn expect(&self, scopes: usize) {
        self.missing.store(scopes, Ordering::Release);
    }

    /// Says that the caches of one more scope are filled.
    pub(crate) fn reached(&self) {
        if self.missing.fetch_sub(1, Ordering::AcqRel) == 1 {
            tracing::info!("the caches are filled");
        }
    }

    /// Whether all caches are filled.
    pub fn is_ready(&self) -> bool {
        self.missing.load(Ordering::Acquire) == 0
    }

    /// Why the process is not ready, as `/readyz` says it.
    pub fn missing(&self) -> Option<&'static str> {
        (!self.is_ready()).then_some("the caches are not filled yet")
    }
}
