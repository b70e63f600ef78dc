#!/usr/bin/env bash
# Builds the image of the Dockerfile without a container engine: a docker-archive with the static binary in its one
# layer. Runs the binary from an empty, read-only root first, for that is where it has to work.
# Usage: make image [IMAGE=name:tag]; the archive is target/image/image.tar, for `docker load` or `ctr images import`.
set -euo pipefail
cd "$(dirname "$0")/.."

image=${IMAGE:-setupkey-operator:$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)}
machine=$(uname -m)
target=$machine-unknown-linux-gnu
case $machine in
x86_64) arch=amd64 ;;
aarch64) arch=arm64 ;;
*) echo "no image for the architecture $machine"; exit 1 ;;
esac

RUSTFLAGS="-C target-feature=+crt-static" cargo build --release --locked --target "$target" --bin setupkey-operator
out=target/image
rm -rf "$out"
mkdir -p "$out/root" "$out/archive"
cp "target/$target/release/setupkey-operator" "$out/root/"

if ldd "$out/root/setupkey-operator" 2>&1 | grep -q '=>'; then
	echo "the binary is not static"
	exit 1
fi
# A root with one file in it, that nobody can write to.
# shellcheck disable=SC2016 # $0 is for the inner shell
printed=$(unshare --map-root-user --mount sh -c '
	mount --bind "$0" "$0" && mount -o remount,bind,ro "$0"
	if touch "$0/x" 2>/dev/null; then echo "the root can be written to"; exit 1; fi
	exec chroot "$0" /setupkey-operator --version' "$PWD/$out/root")
echo "from an empty, read-only root: $printed"

# The same bytes for the same binary, whenever and by whomever it is packed.
pack() { tar --create --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --directory "$1" --file "$2" "${@:3}"; }
pack "$out/root" "$out/archive/layer.tar" setupkey-operator
layer=$(sha256sum "$out/archive/layer.tar" | cut -d' ' -f1)
cat >"$out/archive/config.json" <<JSON
{"architecture":"$arch","os":"linux","config":{"User":"65532:65532","Entrypoint":["/setupkey-operator"]},"rootfs":{"type":"layers","diff_ids":["sha256:$layer"]}}
JSON
cat >"$out/archive/manifest.json" <<JSON
[{"Config":"config.json","RepoTags":["$image"],"Layers":["layer.tar"]}]
JSON
pack "$out/archive" "$out/image.tar" config.json layer.tar manifest.json
mebibytes() { numfmt --to=iec-i --suffix=B --format=%.1f "$(stat -c %s "$1")"; }
echo "binary: $(mebibytes "$out/root/setupkey-operator")  $out/root/setupkey-operator"
echo "image:  $(mebibytes "$out/image.tar")  $out/image.tar, to be loaded as $image"
