#!/usr/bin/env bash
# Installs with apt what a node still needs from the system: containerd, runc, the CNI plugins, nftables, iproute2 and a
# static busybox. Without apt, prints one sentence about what is missing.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo build --quiet --locked --package control-plane
missing=$(RUST_BACKTRACE=0 target/debug/control-plane missing-packages) ||
	{ echo "or set E2E_KUBECONFIG to use another cluster"; exit 1; }
busybox=$(PATH=$PATH:/usr/local/bin:/usr/bin:/bin command -v busybox || true)
if [[ -z $busybox ]] || ldd "$busybox" 2>&1 | grep -q '=>'; then missing+=$'\n'busybox-static; fi
read -r -d '' -a packages <<<"$missing" || true
[[ ${#packages[@]} -gt 0 ]] || exit 0
command -v apt-get >/dev/null ||
	{ echo "a node needs ${packages[*]} (these are Debian's names) and there is no apt: install them, or set E2E_KUBECONFIG"; exit 1; }

echo "installing ${packages[*]}"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# Debian starts a service on installation, unless systemd seems not to run. The node runs a containerd of its own.
# shellcheck disable=SC2016 # "$@" is for the inner shell
unshare --mount bash -euo pipefail -c '
	if [[ -d /run/systemd ]]; then mount -t tmpfs none /run/systemd; fi
	export DEBIAN_FRONTEND=noninteractive
	apt-get update -q || true
	apt-get install -q -y --no-install-recommends "$@"
	if [[ " $* " == *" containerd "* ]] && command -v systemctl >/dev/null; then systemctl disable containerd; fi
' bash "${packages[@]}" >"$log" 2>&1 || { tail -n 20 "$log"; echo "could not install ${packages[*]}"; exit 1; }
