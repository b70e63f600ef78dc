#!/usr/bin/env bash
# All tests on the control plane that this was started with, and then a verdict on what they made the operator ask for.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo test --workspace --locked
cargo test --locked --test rbac_minimal -- --ignored
