#!/usr/bin/env bash
# Packs NetBird's programs as the tests run them: the agent where NetBird's own images have it, and the servers beside it.
# See tools/netbird/go.mod for their licences; the image is for this machine's tests and is published nowhere.
# Usage: hack/netbird-image.sh ARCHIVE
set -euo pipefail
cd "$(dirname "$0")/.."
source hack/pack-image.sh

root=$(mktemp -d)
trap 'rm -r "$root"' EXIT
chmod 755 "$root"
mkdir -p "$root/usr/local/bin" "$(dirname "$1")"
for program in netbird netbird-management netbird-signal; do
	if ldd "target/tools/$program" 2>&1 | grep -q '=>'; then
		echo "target/tools/$program is not static"
		exit 1
	fi
	cp "target/tools/$program" "$root/usr/local/bin/"
done
pack_image localhost/netbird:tests '{"User":"65532:65532","Entrypoint":["/usr/local/bin/netbird"]}' "$root" "$1"
