#!/usr/bin/env bash
# Prints the manifest of `kubectl setupkey` for krew, with the checksums of the archives in a folder.
# Usage: SOURCE=https://github.com/OWNER/REPOSITORY hack/krew.sh FOLDER
set -euo pipefail
cd "$(dirname "$0")/.."
source hack/pack-image.sh

folder=${1:?the folder of the archives is missing}
source=${SOURCE:?SOURCE is not set: the URL of the repository, from whose releases krew downloads}
version=v$(program_version)
if [[ ! $source =~ ^https://[A-Za-z0-9:/._-]+$ ]]; then
	echo "SOURCE is no https:// URL of a repository" >&2
	exit 1
fi
cat <<YAML
apiVersion: krew.googlecontainertools.github.com/v1alpha2
kind: Plugin
metadata:
  name: setupkey
spec:
  version: $version
  homepage: $source
  shortDescription: Manage network setup keys
  description: |
    See, audit, reveal, rotate and revoke the setup keys that setupkey-operator
    manages: keys of the cluster itself, and keys of NetBird. It works with the
    rights of the caller.
  caveats: |
    The cluster needs setupkey-operator. To complete names of keys, kubectl needs
    a script on the PATH:
      kubectl setupkey completion kubectl > ~/.local/bin/kubectl_complete-setupkey
      chmod +x ~/.local/bin/kubectl_complete-setupkey
  platforms:
YAML
found=0
for archive in "$folder/kubectl-setupkey-$version"-*; do
	[[ -f $archive ]] || continue
	file=$(basename "$archive")
	platform=${file#"kubectl-setupkey-$version-"} suffix=''
	platform=${platform%.tar.gz}
	if [[ $platform == windows-* ]]; then suffix=.exe; fi
	cat <<-YAML
		    - selector:
		        matchLabels:
		          os: ${platform%-*}
		          arch: ${platform#*-}
		      uri: $source/releases/download/$version/$file
		      sha256: $(sha256sum "$archive" | cut -d' ' -f1)
		      bin: kubectl-setupkey$suffix
	YAML
	found=$((found + 1))
done
if ((found == 0)); then
	echo "$folder holds no archive of $version" >&2
	exit 1
fi
