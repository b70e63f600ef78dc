#!/usr/bin/env bash
# Runs all tests on the control plane that it was started with. Then compares the operator's requests with its rights.
set -euo pipefail
cd "$(dirname "$0")/.."
hack/quietly.sh "the tests" cargo test --workspace --locked --no-run
cargo test --workspace --locked
cargo test --locked --test rbac_minimal -- --ignored
