# Sourced by the scripts that build images: packs a folder into a docker-archive, without a container engine.
# shellcheck shell=bash

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

# The version of the program.
program_version() { sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1; }

# The labels of the operator's image, in JSON: those of the Dockerfile that have a value. SOURCE is the URL of the
# repository. The time is that of SOURCE_DATE_EPOCH: without it, the same commit makes the same bytes at any time.
# shellcheck disable=SC2016 # names of the Dockerfile's arguments
operator_labels() {
	local name value version revision created='' comma=''
	version=$(program_version)
	# The repository may belong to another user than the one that builds, and a packed copy of it has no commit.
	revision=$(git -c safe.directory="$PWD" describe --always --abbrev=40 --exclude='*' --dirty 2>/dev/null || true)
	if [[ -n ${SOURCE_DATE_EPOCH:-} ]]; then
		created=$(date --utc --date="@$SOURCE_DATE_EPOCH" +%Y-%m-%dT%H:%M:%SZ)
	fi
	printf '{'
	while IFS='=' read -r name value; do
		case $value in
		'$VERSION') value=$version ;;
		'$REVISION') value=$revision ;;
		'$SOURCE') value=${SOURCE:-} ;;
		'$CREATED') value=$created ;;
		esac
		if [[ $value == *[\"\\]* ]]; then
			echo "the label $name holds a quote or a backslash" >&2
			return 1
		fi
		[[ -z $value ]] || { printf '%s"%s":"%s"' "$comma" "$name" "$value"; comma=,; }
	done < <(sed -n 's/^.*\(org\.opencontainers\.image\.[a-z]*\)="\(.*\)".*$/\1=\2/p' Dockerfile)
	printf '}'
}

# The binaries of the operator's image. The first is its command.
read -r -a OPERATOR_BINARIES < <(sed -n 's/^ARG BINARIES="\(.*\)"$/\1/p' Dockerfile)
# The user, the command and the labels of the operator's image, as in the Dockerfile.
# shellcheck disable=SC2034 # for the scripts that source this
OPERATOR_CONFIG="{\"User\":\"65532:65532\",\"Entrypoint\":[\"/${OPERATOR_BINARIES[0]}\"],\"Labels\":$(operator_labels)}"
