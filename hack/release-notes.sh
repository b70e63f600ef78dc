#!/usr/bin/env bash
# Prints the text of a release: the section of CHANGELOG.md. Fails if the tag is not the version of program and chart.
# Usage: hack/release-notes.sh vX.Y.Z
set -euo pipefail
cd "$(dirname "$0")/.."

tag=${1:?the tag is missing, such as v0.1.0}
fail() { echo "$1" >&2; exit 1; }
is() { [[ $2 == "${tag#v}" ]] || fail "the tag is $tag, and the $1 in $3 is $2"; }

[[ $tag == v* ]] || fail "the tag is $tag, and has to begin with v"
is version "$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)" Cargo.toml
chart=charts/setupkey-operator/Chart.yaml
is version "$(sed -n 's/^version: //p' $chart)" $chart
is appVersion "$(sed -n 's/^appVersion: //p' $chart | tr -d \")" $chart
notes=$(hack/changelog.sh "${tag#v}")
[[ -n $notes ]] || fail "CHANGELOG.md has no section \"## ${tag#v}\", or nothing below it"
printf '%s\n' "$notes"
