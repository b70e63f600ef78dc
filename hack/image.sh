#!/usr/bin/env bash
# Builds the image of the Dockerfile without a container engine: a docker-archive whose one layer holds the static binaries
# and the authorities that they trust. Before that, runs each binary from such a root, read-only, because it must work
# there.
# Usage: make image [IMAGE=name:tag] [SOURCE=URL of the repository]; the archive is target/image/image.tar, for
# `docker load` or `ctr images import`.
set -euo pipefail
cd "$(dirname "$0")/.."
source hack/pack-image.sh

image=${IMAGE:-setupkey-operator:$(program_version)}
target=$(uname -m)-unknown-linux-gnu
authorities=/etc/ssl/certs/ca-certificates.crt
if ! grep -q 'BEGIN CERTIFICATE' "$authorities" 2>/dev/null; then
	echo "$authorities holds no certificate: install the authorities that the image will trust (Debian: ca-certificates)"
	exit 1
fi

RUSTFLAGS="-C target-feature=+crt-static" cargo build --release --locked --target "$target" "${OPERATOR_BINARIES[@]/#/--bin=}"
out=target/image
rm -rf "$out/root"
mkdir -p "$out/root/etc/ssl/certs"
cp "${OPERATOR_BINARIES[@]/#/target/$target/release/}" "$out/root/"
cp "$authorities" "$out/root$authorities"
chmod 755 "$out/root/etc" "$out/root/etc/ssl" "$out/root/etc/ssl/certs"
chmod 644 "$out/root$authorities"

# in_root FOLDER COMMAND…: runs the command in a read-only root.
in_root() {
	# shellcheck disable=SC2016 # $0 is for the inner shell
	unshare --map-root-user --mount sh -c '
		mount --bind "$0" "$0" && mount -o remount,bind,ro "$0"
		if touch "$0/x" 2>/dev/null; then echo "the root can be written to"; exit 1; fi
		exec chroot "$0" "$@"' "$@"
}

for binary in "${OPERATOR_BINARIES[@]}"; do
	if ldd "$out/root/$binary" 2>&1 | grep -q '=>'; then
		echo "$binary is not static"
		exit 1
	fi
	printed=$(in_root "$PWD/$out/root" "/$binary" --version)
	echo "from a read-only root: $printed"
done
hack/image-trust.sh "$out/root"

pack_image "$image" "$OPERATOR_CONFIG" "$out/root" "$out/image.tar"
mebibytes() { numfmt --to=iec-i --suffix=B --format=%.1f "$(stat -c %s "$1")"; }
for binary in "${OPERATOR_BINARIES[@]}"; do
	echo "binary: $(mebibytes "$out/root/$binary")  $out/root/$binary"
done
echo "image:  $(mebibytes "$out/image.tar")  $out/image.tar, to be loaded as $image"
echo "labels: $(operator_labels)"
