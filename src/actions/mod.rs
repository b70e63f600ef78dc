//! What people do with `SetupKey`s: list, find, revoke, rotate, reveal, and wait until the controller has followed.
//!
//! The REST API and `kubectl setupkey` share it. The rights are those of the client, and nothing here decides about a key:
//! that is in [`key`](crate::key).

pub mod gitops;
mod keys;
pub mod rights;
pub mod violations;
mod waiting;

pub use keys::{Keys, Page, moment_of_request};
pub use waiting::{FIRST_PAUSE, LONGEST_PAUSE, Waited};
