#!/usr/bin/env bash
# Lists the crates that the binaries of the image are built from, in CycloneDX. A time and a serial number are in it only
# without SOURCE_DATE_EPOCH.
# Usage: make sbom; the list is target/manifests/setupkey-operator.cdx.json
set -euo pipefail
cd "$(dirname "$0")/.."

out=target/manifests
name=setupkey-operator.cdx
export PATH=$PWD/target/tools/bin:$PATH
# It writes beside each Cargo.toml of the workspace, also of the member that only tests need.
clean() { rm -f "$name.json" "tests/control-plane/$name.json"; }
trap clean EXIT
cargo cyclonedx -qq --format json --spec-version 1.5 --all --target all --override-filename "$name"
mkdir -p "$out"
# References between the parts hold the path of this folder.
sed "s#file://$PWD#file://.#g" "$name.json" >"$out/$name.json"
echo "$out/$name.json: $(grep -c '"purl": "pkg:cargo/' "$out/$name.json") crates"
