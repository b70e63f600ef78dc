#!/usr/bin/env bash
# Builds the image of the Dockerfile without a container engine: a docker-archive with the static binary in its one
# layer. Before that, runs the binary from an empty, read-only root, because it must work there.
# Usage: make image [IMAGE=name:tag]; the archive is target/image/image.tar, for `docker load` or `ctr images import`.
set -euo pipefail
cd "$(dirname "$0")/.."

image=${IMAGE:-setupkey-operator:$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)}
target=$(uname -m)-unknown-linux-gnu
source hack/pack-image.sh

RUSTFLAGS="-C target-feature=+crt-static" cargo build --release --locked --target "$target" --bin setupkey-operator
out=target/image
rm -rf "$out/root"
mkdir -p "$out/root"
cp "target/$target/release/setupkey-operator" "$out/root/"

if ldd "$out/root/setupkey-operator" 2>&1 | grep -q '=>'; then
	echo "the binary is not static"
	exit 1
fi
# A read-only root with one file in it.
# shellcheck disable=SC2016 # $0 is for the inner shell
printed=$(unshare --map-root-user --mount sh -c '
	mount --bind "$0" "$0" && mount -o remount,bind,ro "$0"
	if touch "$0/x" 2>/dev/null; then echo "the root can be written to"; exit 1; fi
	exec chroot "$0" /setupkey-operator --version' "$PWD/$out/root")
echo "from an empty, read-only root: $printed"

pack_image "$image" "$OPERATOR_CONFIG" "$out/root" "$out/image.tar"
mebibytes() { numfmt --to=iec-i --suffix=B --format=%.1f "$(stat -c %s "$1")"; }
echo "binary: $(mebibytes "$out/root/setupkey-operator")  $out/root/setupkey-operator"
echo "image:  $(mebibytes "$out/image.tar")  $out/image.tar, to be loaded as $image"
