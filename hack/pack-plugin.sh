#!/usr/bin/env bash
# Packs `kubectl setupkey` for each target, as a release ships it: an archive with the program, the script by which kubectl
# completes it, and the licence. Then writes setupkey.yaml, the manifest for krew. The same files make the same archives.
# Usage: hack/pack-plugin.sh FOLDER OUT, where FOLDER holds what hack/plugin.sh has built, in a folder for each target.
# SOURCE is the URL of the repository.
set -euo pipefail
cd "$(dirname "$0")/.."
source hack/pack-image.sh

folder=${1:?the folder of the targets is missing} out=${2:?the folder for the archives is missing}
mkdir -p "$out"
out=$(realpath "$out")
version=$(program_version)
# The targets of rustc, and their names in Go, which krew uses.
targets=(
	x86_64-unknown-linux-musl:linux-amd64
	aarch64-unknown-linux-musl:linux-arm64
	x86_64-apple-darwin:darwin-amd64
	aarch64-apple-darwin:darwin-arm64
	x86_64-pc-windows-msvc:windows-amd64
)
work=$(mktemp -d)
trap 'rm -r "$work"' EXIT
for pair in "${targets[@]}"; do
	target=${pair%%:*} platform=${pair#*:}
	if [[ ! -d $folder/$target ]]; then
		echo "$folder holds no $target" >&2
		exit 1
	fi
	rm -rf "$work/files"
	cp -r "$folder/$target" "$work/files"
	cp LICENSE "$work/files/"
	# Uploads between the jobs of a workflow lose the mode of a file.
	chmod 755 "$work"/files/kubectl*
	chmod 644 "$work/files/LICENSE"
	archive=$out/kubectl-setupkey-v$version-$platform
	names=$(ls "$work/files")
	# shellcheck disable=SC2086 # one argument for each file
	pack "$work/files" "$work/files.tar" -- $names
	gzip --no-name --best <"$work/files.tar" >"$archive.tar.gz"
	echo "$archive.tar.gz: ${names//$'\n'/, }"
done
hack/krew.sh "$out" >"$out/setupkey.yaml"
