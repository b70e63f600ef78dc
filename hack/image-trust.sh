#!/usr/bin/env bash
# Shows that `enroll` in the image trusts the authorities that the image holds: it sends a request to a server whose
# certificate comes from one of them, and none to the same server where that authority is missing.
# Usage: hack/image-trust.sh FOLDER, which holds the files of the image
set -euo pipefail

image=$(realpath "$1")
work=$(mktemp -d)
server=
trap 'if [[ -n $server ]]; then kill "$server"; fi; rm -r "$work"' EXIT

new_key=(-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1)
openssl req -x509 "${new_key[@]}" -subj /CN=authority -keyout "$work/ca.key" -out "$work/ca.crt" 2>/dev/null
openssl req "${new_key[@]}" -subj /CN=server -keyout "$work/server.key" -out "$work/server.csr" 2>/dev/null
openssl x509 -req -in "$work/server.csr" -CA "$work/ca.crt" -CAkey "$work/ca.key" -days 1 -out "$work/server.crt" \
	-extfile <(printf 'subjectAltName=IP:127.0.0.1\n') 2>/dev/null
# It prints what it receives, and holds its input open, which would end it.
openssl s_server -accept 127.0.0.1:0 -cert "$work/server.crt" -key "$work/server.key" \
	< <(exec sleep 60) >"$work/received" 2>&1 &
server=$!

# joins ROOT: whether a request of `enroll` arrives. The state is in memory, because the root is read-only. Every container
# has the devices for random bytes.
joins() {
	local root=$1 port
	port=$(sed -n 's/^ACCEPT .*:\([0-9]*\)$/\1/p' "$work/received")
	mkdir "$root/state" "$root/dev"
	touch "$root/dev/random" "$root/dev/urandom"
	tr a-f A-F </proc/sys/kernel/random/uuid >"$root/key"
	# shellcheck disable=SC2016 # $0 is for the inner shell
	timeout --kill-after=1 5 unshare --map-root-user --mount sh -euc '
		mount --bind "$0" "$0" && mount -t tmpfs tmpfs "$0/state"
		for device in random urandom; do mount --bind "/dev/$device" "$0/dev/$device"; done
		mount -o remount,bind,ro "$0"
		exec chroot "$0" "$@"' "$root" /setupkey-operator enroll --server "https://127.0.0.1:$port" --key-file /key \
		--state-file /state/state --hostname image >"$work/log" 2>&1 &
	local enroll=$!
	for _ in $(seq 30); do
		if grep -q '^POST ' "$work/received"; then
			kill "$enroll"
			return 0
		fi
		kill -0 "$enroll" 2>/dev/null || return 1
		sleep 0.1
	done
	kill "$enroll" || true
	return 1
}

for _ in $(seq 50); do
	if grep -q '^ACCEPT' "$work/received"; then break; fi
	sleep 0.1
done
cp -r "$image" "$work/without"
cp -r "$image" "$work/with"
cat "$work/ca.crt" >>"$work/with/etc/ssl/certs/ca-certificates.crt"
if joins "$work/without"; then
	echo "enroll trusts a server whose authority it cannot know"
	exit 1
fi
if ! joins "$work/with"; then
	echo "enroll does not trust the authorities of the image:"
	cat "$work/log" "$work/received"
	exit 1
fi
echo "enroll trusts the authorities of the image: $(grep -c 'BEGIN CERTIFICATE' "$image/etc/ssl/certs/ca-certificates.crt")"
