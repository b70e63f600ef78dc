#!/usr/bin/env bash
# Installs what a node takes from the system, where apt is there: containerd, runc, the CNI plugins, nftables, iproute2
# and a static busybox. Touches nothing that is there already. Otherwise says in one sentence what is missing.
set -euo pipefail

PATH=$PATH:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
has() { command -v "$1" >/dev/null; }
static_busybox() { has busybox && ! ldd "$(command -v busybox)" 2>&1 | grep -q '=>'; }

[[ $(uname -s) == Linux ]] || { echo "a node needs Linux; E2E_KUBECONFIG names another cluster to use"; exit 1; }
[[ $EUID -eq 0 ]] || { echo "a node needs root, for namespaces, mounts and control groups; E2E_KUBECONFIG names another cluster to use"; exit 1; }

missing=()
if ! has containerd || ! has ctr; then missing+=(containerd); fi
has runc || missing+=(runc)
has nft || missing+=(nftables)
has ip || missing+=(iproute2)
[[ -x /usr/lib/cni/ptp || -x /opt/cni/bin/ptp ]] || missing+=(containernetworking-plugins)
static_busybox || missing+=(busybox-static)
[[ ${#missing[@]} -gt 0 ]] || exit 0
has apt-get || { echo "a node needs ${missing[*]} (names of Debian packages); install them, or set E2E_KUBECONFIG"; exit 1; }

echo "installing ${missing[*]}"
# Debian starts a service when it installs it, unless systemd seems not to run. Ours is a containerd of its own.
log=$(mktemp)
trap 'rm -f "$log"' EXIT
unshare --mount bash -euo pipefail -c '
	if [[ -d /run/systemd ]]; then mount -t tmpfs none /run/systemd; fi
	export DEBIAN_FRONTEND=noninteractive
	apt-get update -q || true
	apt-get install -q -y --no-install-recommends "$@"' bash "${missing[@]}" >"$log" 2>&1 ||
	{ tail -n 20 "$log"; echo "could not install ${missing[*]}"; exit 1; }
