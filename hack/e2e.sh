#!/usr/bin/env bash
# Runs the stories of tests/e2e on a node of its own, or, with E2E_KUBECONFIG, on the cluster of that kubeconfig.
# Usage: make e2e [STORY=words] [E2E_KUBECONFIG=… E2E_IMAGE=… E2E_UPGRADE_IMAGE=… E2E_SHELL_IMAGE=… E2E_NETBIRD_IMAGE=…]
set -euo pipefail
cd "$(dirname "$0")/.."

# A failed story prints one sentence about what was wrong. Fifty lines of backtrace would hide it.
export RUST_BACKTRACE=0
read -r -a words <<<"${STORY:-}"
# The node has no way out of its network, so everything is built before.
cargo build --quiet --locked --package control-plane
cargo test --quiet --locked --test e2e --no-run
if [[ -n ${E2E_KUBECONFIG:-} ]]; then
	exec cargo test --quiet --locked --test e2e -- "${words[@]}"
fi

version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
hack/image.sh
hack/node-image.sh target/image/shell.tar
# To Kubernetes, the same program under another tag is an upgrade.
export E2E_UPGRADE_IMAGE=setupkey-operator:$version-next
( source hack/pack-image.sh
	pack_image "$E2E_UPGRADE_IMAGE" "$OPERATOR_CONFIG" target/image/root target/image/next.tar )
hack/netbird-image.sh target/image/netbird.tar
export E2E_NETBIRD_IMAGE=localhost/netbird:tests
target/debug/control-plane run --node --audit --logs target/e2e-logs \
	--image target/image/shell.tar --image target/image/image.tar --image target/image/next.tar \
	--image target/image/netbird.tar -- \
	cargo test --quiet --locked --offline --test e2e -- "${words[@]}"
if [[ ${#words[@]} -eq 0 ]]; then
	echo "killed, interrupted and failed runs:"
	cargo test --quiet --locked --package control-plane --test node -- --ignored --test-threads=1
fi
