#!/usr/bin/env bash
# Breaks the code in one place at a time and runs the test that must notice: a check that cannot fail is no check.
# Usage: make mutants [MUTANT=name]. Works in a copy; prints one line per mutant; fails if one survives.
# `hack/mutants.sh fit` only checks that the patches fit the code.
#
# Each mutant is a patch in hack/mutants, and the file has its name. It begins with two lines of comment:
#   # what is broken
#   # test: the test that must fail, after the flag that selects its target: --lib, or --test integration
set -euo pipefail
cd "$(dirname "$0")/.."

patches=(hack/mutants/*.patch)
[[ -z ${MUTANT:-} ]] || patches=("hack/mutants/$MUTANT.patch")
[[ -f ${patches[0]} ]] || { echo "there is no ${patches[0]}"; exit 1; }
test_of() { sed -n 's/^# test: //p' "$1"; }

# All patches are checked before anything is built.
unfit=0
for patch in "${patches[@]}"; do
	fits=true
	git apply --check "$patch" || fits=false
	[[ -n $(test_of "$patch") ]] || { echo "it names no test"; fits=false; }
	$fits || { echo "DOES NOT FIT $patch"; unfit=$((unfit + 1)); }
done
[[ $unfit -eq 0 ]] || { echo "$unfit patches do not fit; docs/testing.md tells how to renew them"; exit 1; }
[[ ${1:-} != fit ]] || exit 0

# A repository of its own, so that `git apply` works on the copy, wherever that is.
tree=target/mutants/tree
rm -rf "$tree"
mkdir -p "$tree"
git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -t "$tree"
git -C "$tree" init --quiet
export CARGO_TARGET_DIR="$PWD/target/mutants/build" CONTROL_PLANE_TOOLS="$PWD/target/tools" RUST_BACKTRACE=0

# Unbroken code must pass. Otherwise a test that fails for another reason would look as if it caught a mutant.
mapfile -t tests < <(for patch in "${patches[@]}"; do test_of "$patch"; done | sort -u)
(cd "$tree" && timeout 1800 cargo test --quiet --lib --tests -- "${tests[@]##* }") >target/mutants/unbroken.log 2>&1 ||
	{ echo "the tests fail without a mutant, see target/mutants/unbroken.log"; exit 1; }

survivors=0
for patch in "${patches[@]}"; do
	name=$(basename "$patch" .patch)
	test=$(test_of "$patch")
	log=target/mutants/$name.log
	git -C "$tree" apply "$PWD/$patch"
	read -ra selection <<<"$test"
	if (cd "$tree" && timeout 600 cargo test --quiet "${selection[@]}") >"$log" 2>&1; then
		verdict="SURVIVED"
	elif grep -q '^test result: FAILED' "$log" || grep -q 'process didn.t exit successfully' "$log"; then
		verdict="caught"
	else
		verdict="NOT BUILT"
	fi
	git -C "$tree" apply --reverse "$PWD/$patch"
	[[ $verdict == caught ]] || survivors=$((survivors + 1))
	printf '%-12s %-30s %s\n' "$verdict" "$name" "${test##* }"
done
[[ $survivors -eq 0 ]] || { echo "$survivors mutants were not caught; logs in target/mutants"; exit 1; }
