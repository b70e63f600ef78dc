# Sourced by the scripts that build images: packs a folder into a docker-archive, without a container engine.
# shellcheck shell=bash

# The user and the command of the operator's image, as in the Dockerfile.
# shellcheck disable=SC2034 # for the scripts that source this
OPERATOR_CONFIG='{"User":"65532:65532","Entrypoint":["/setupkey-operator"]}'

# Packs the same files into the same bytes, at any time and as any user.
pack() { tar --create --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --directory "$1" --file "$2" "${@:3}"; }

# Sets `arch` to the machine's architecture as images name it.
image_architecture() {
	case $(uname -m) in
	x86_64) arch=amd64 ;;
	aarch64) arch=arm64 ;;
	*) echo "no image for the architecture $(uname -m)" >&2; return 1 ;;
	esac
}

# pack_image NAME CONFIG FOLDER ARCHIVE: an image with one layer that holds the whole folder. CONFIG is its command and
# user, in JSON.
pack_image() {
	local name=$1 config=$2 root=$3 archive=$4 arch work layer
	image_architecture
	work=$(mktemp -d)
	(cd "$root" && pack . "$work/layer.tar" -- *)
	layer=$(sha256sum "$work/layer.tar" | cut -d' ' -f1)
	cat >"$work/config.json" <<-JSON
		{"architecture":"$arch","os":"linux","config":$config,"rootfs":{"type":"layers","diff_ids":["sha256:$layer"]}}
	JSON
	cat >"$work/manifest.json" <<-JSON
		[{"Config":"config.json","RepoTags":["$name"],"Layers":["layer.tar"]}]
	JSON
	pack "$work" "$archive" config.json layer.tar manifest.json
	rm -r "$work"
}
