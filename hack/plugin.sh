#!/usr/bin/env bash
# Builds `kubectl setupkey` with the script by which kubectl completes it: for this machine into target/plugin, or for a target
# of rustc into target/plugin/TARGET.
# Usage: make plugin, or hack/plugin.sh [TARGET]
set -euo pipefail
cd "$(dirname "$0")/.."

target=${1:-}
out=target/plugin${target:+/$target}
built=target${target:+/$target}/release
suffix=''
if [[ $target == *-windows-* || ${OS:-} == Windows_NT ]]; then suffix=.exe; fi
# Nothing has to be installed beside the program.
case $target in
*-musl) export "CC_${target//-/_}=${CC:-musl-gcc}" ;;
*-windows-msvc) export RUSTFLAGS="-C target-feature=+crt-static" ;;
esac
hack/quietly.sh "kubectl-setupkey${target:+ for $target}" \
	cargo build --release --locked --bin kubectl-setupkey --target-dir target ${target:+--target "$target"}

mkdir -p "$out"
cp "$built/kubectl-setupkey$suffix" "$out/"
if [[ -n $suffix ]]; then
	# Windows runs no script of sh.
	printf '@kubectl-setupkey.exe __complete %%*\r\n' >"$out/kubectl_complete-setupkey.cmd"
else
	cp src/bin/kubectl-setupkey/completion/kubectl.sh "$out/kubectl_complete-setupkey"
	chmod 755 "$out/kubectl_complete-setupkey"
fi
echo "$PWD/$out: $(cd "$out" && ls -m kubectl*)"
if [[ -z $target ]]; then
	# shellcheck disable=SC2016 # for the reader's shell
	printf 'kubectl finds them on the PATH:\n  export PATH="%s:$PATH"\n  kubectl setupkey list -A\n' "$PWD/$out"
fi
