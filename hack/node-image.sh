#!/usr/bin/env bash
# Packs the image for our node's pods: a static busybox. It is their shell, and also the process that holds a pod open.
# Usage: hack/node-image.sh ARCHIVE
set -euo pipefail
cd "$(dirname "$0")/.."
source hack/pack-image.sh

busybox=$(PATH=$PATH:/usr/local/bin:/usr/bin:/bin command -v busybox) || { echo "busybox is needed and not installed"; exit 1; }
if ldd "$busybox" 2>&1 | grep -q '=>'; then
	echo "$busybox is not static: Debian's package busybox-static has one that is"
	exit 1
fi
root=$(mktemp -d)
trap 'rm -r "$root"' EXIT
chmod 755 "$root"
mkdir "$root/bin" "$root/tmp"
cp "$busybox" "$root/bin/busybox"
for applet in $("$busybox" --list); do
	[[ $applet == busybox ]] || ln -s busybox "$root/bin/$applet"
done
mkdir -p "$(dirname "$1")"
# The name is the one in tests/control-plane/src/node/config.rs. Without a command, the image waits.
pack_image localhost/setupkey-node:shell '{"Env":["PATH=/bin"],"Cmd":["sleep","2147483647"]}' "$root" "$1"
