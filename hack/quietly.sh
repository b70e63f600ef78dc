#!/usr/bin/env bash
# Runs a build: one line when it begins, and one with its time when it ends. Everything that the build prints goes to a
# log file, whose end is shown when the build fails. With V=1, everything is shown as it comes.
# Usage: hack/quietly.sh NAME COMMAND [ARGUMENT…]
set -euo pipefail

readonly name=$1
shift
if [[ ${V:-0} == 1 ]]; then
	printf 'building %s\n' "$name"
	exec "$@"
fi
folder=$(cd "$(dirname "$0")/.." && pwd)/target/logs
readonly log=$folder/build-${name//[^A-Za-z0-9._]/-}.log
mkdir -p "$folder"
# One write for each line, so that builds at the same time do not mix theirs.
printf 'building %s\n' "$name"
code=0
"$@" >"$log" 2>&1 </dev/null || code=$?
took="$((SECONDS / 60)) min $((SECONDS % 60)) s"
if ((code == 0)); then
	printf 'built %s in %s\n' "$name" "${took#0 min }"
else
	printf '%s\n' "$(tail -n 40 "$log")" "could not build $name (exit code $code, after ${took#0 min }); all output: $log" >&2
fi
exit "$code"
