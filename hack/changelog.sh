#!/usr/bin/env bash
# Prints a section of CHANGELOG.md, without its heading. A date may follow the version in the heading. Prints nothing if
# there is none.
# Usage: hack/changelog.sh VERSION|Unreleased
set -euo pipefail
cd "$(dirname "$0")/.."
awk -v wanted="$1" '
	/^## / { inside = $2 == wanted || $2 == "[" wanted "]"; next }
	inside { print }' CHANGELOG.md
