#!/usr/bin/env bash
# The script of `make demo NETBIRD=1`: shows with kubectl how real NetBird agents join with a key in a Secret, on a control
# plane and a NetBird server of its own.
#
# Every command is printed before its output, and every claim is checked. The first claim that fails ends the demo with
# exit code 1. KEEP=1 leaves everything running until Ctrl-C.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${NETBIRD_URL:?is not set: run make demo NETBIRD=1, which starts a NetBird server first}"
# The operator looks at NetBird once in 30 seconds, the shortest interval.
PATIENCE=60
source hack/demo-stage.sh

readonly INTERVAL=30s KEY_FILE=$WORK/secrets/office/setup-key
read -r -a AGENT <<<"$NETBIRD_AGENT"
office() { kubectl get sk office -o jsonpath="{.status.$1}"; }
has_uses() { [[ $(office usedTimes) == "$1" ]]; }
says() { grep -q "$2" "$WORK/$1.log"; }

readonly PEERS="netbird-api peers | grep -oE '\"(connected|hostname)\":[^,]*' | paste -d ' ' - -"
readonly KEYS="netbird-api setup-keys | grep -oE '\"(key|name|state|used_times)\":[^,]*' | paste -d ' ' - - - -"
is_connected() { bash -c "$PEERS" | grep -q "\"connected\":true \"hostname\":\"$1\""; }

# What NetBird itself says. curl reads the token from a file, because every user of this machine can read command lines.
install_netbird_api() {
  mkdir "$WORK/bin"
  sed 's/^/Authorization: Token /' "$NETBIRD_TOKEN_FILE" >"$WORK/authorization"
  cat >"$WORK/bin/netbird-api" <<SH
#!/bin/sh
exec curl --silent --show-error --cacert '$NETBIRD_CA_FILE' --header '@$WORK/authorization' "$NETBIRD_URL/api/\$1"
SH
  chmod +x "$WORK/bin/netbird-api"
  PATH=$WORK/bin:$PATH
}

# Starts a real agent that knows no more than the server and the file with the key. It brings its own network stack.
start_agent() {
  mkdir "$WORK/$1"
  printf '%s$ NB_SETUP_KEY_FILE=%s NB_HOSTNAME=%s netbird up &%s\n' "$accent" "$KEY_FILE" "$1" "$plain"
  env NB_MANAGEMENT_URL="$NETBIRD_URL" SSL_CERT_FILE="$NETBIRD_CA_FILE" NB_SETUP_KEY_FILE="$KEY_FILE" \
    NB_HOSTNAME="$1" NB_STATE_DIR="$WORK/$1" HOME="$WORK/$1" USER=netbird NB_FOREGROUND_MODE=true \
    NB_USE_NETSTACK_MODE=true NB_DISABLE_DNS=true NB_LOG_FILE=console "${AGENT[@]}" >"$WORK/$1.log" 2>&1 &
}

set_up() {
  chapter "Setting up"
  install_netbird_api
  say "A NetBird server runs at $NETBIRD_URL, in a network of its own. netbird-api asks its management API with
curl. It has no setup keys:"
  run "netbird-api setup-keys" '^\[\]$'
  say "The operator gets the rights in deploy/rbac.yaml and no others:"
  run "kubectl apply -f deploy/rbac.yaml -f deploy/guards.yaml"
  run "kubectl create namespace $NAMESPACE"
  # shellcheck disable=SC2119 # without further flags
  start_operator
}

an_authority() {
  numbered "A NetBird account is a resource"
  say "The access token of a NetBird service user goes into a Secret:"
  run "kubectl create secret generic netbird-token --from-file=NB_API_KEY=$NETBIRD_TOKEN_FILE"
  say "An Authority says where the server is. Keys of this namespace may name it, and only groups that it allows:"
  run "kubectl apply -f - <<YAML
apiVersion: setupkey.dev/v1alpha1
kind: Authority
metadata: {name: netbird}
spec:
  netbird:
    url: $NETBIRD_URL
    caBundle: \$(base64 -w 0 $NETBIRD_CA_FILE)
    tokenSecretRef: {name: netbird-token}
    interval: $INTERVAL
    createGroups: true
  allowedGroups: [office]
YAML"
  run "$AWAIT --for=condition=Ready authority/netbird"
  run "kubectl get authorities" "netbird +NetBird +$NETBIRD_URL +0 +True"
}

a_key() {
  numbered "A SetupKey becomes a key at NetBird, and a Secret"
  run "kubectl apply -f - <<'YAML'
apiVersion: setupkey.dev/v1alpha1
kind: SetupKey
metadata: {name: office}
spec:
  authorityRef: {name: netbird}
  usageLimit: 5
  expiresIn: 720h
  autoGroups: [office]
YAML"
  run "$AWAIT --for=condition=Ready setupkey/office"
  run "kubectl get sk office -o wide" 'office +reusable +valid +0 +5 .* True +1 +netbird'
  say "NetBird has the key, and its name says where it comes from:"
  run "$KEYS" "\"name\":\"office \\[$NAMESPACE/office [0-9a-f-]+.*\"state\":\"valid\"" '"used_times":0'
  say "NetBird shows a key only once, so the Secret is the only place that holds it:"
  run "kubectl describe secret office" 'setup-key: +36 bytes'
  say "A group that a key may not choose is refused, and the status says why:"
  run "kubectl apply -f - <<< '{apiVersion: setupkey.dev/v1alpha1, kind: SetupKey, metadata: {name: sneaky},
    spec: {authorityRef: {name: netbird}, autoGroups: [admins]}}'"
  run "$AWAIT --for=condition=Stalled setupkey/sneaky"
  run "kubectl get sk sneaky -o jsonpath='{.status.conditions[?(@.type==\"Stalled\")].reason}: {.status.conditions[?(@.type==\"Stalled\")].message}'" \
    '^GroupNotAllowed: '
  run "kubectl delete sk sneaky"
}

an_agent_joins() {
  numbered "A real agent joins with the key in the Secret"
  say "The Secret is mounted as a directory. This machine is called laptop:"
  mount_secret office "${KEY_FILE%/*}"
  start_agent laptop
  eventually "let the agent join" is_connected laptop
  run "$PEERS" '"connected":true "hostname":"laptop"'
  say "It is in the group that the key names:"
  run "netbird-api peers | grep -oE '\"groups\":\[[^]]*' | grep -oE '\"name\":[^,]*'" '"name":"office"'
  say "The operator lists NetBird's keys every $INTERVAL, all of them in one call. Then the status says that the key was used:"
  eventually "report the use" has_uses 1
  run "kubectl get sk office" 'office +reusable +valid +1 +5'
}

revocation() {
  numbered "A revoked key admits no machine, and disturbs none that joined"
  run "kubectl patch sk office --type=merge -p '{\"spec\": {\"revoked\": true}}'"
  run "$AWAIT --for=condition=Valid=false setupkey/office"
  run "kubectl get sk office" 'office +reusable +revoked'
  say "NetBird has taken it:"
  run "$KEYS" '"state":"revoked"'
  say "Another machine tries the same key:"
  start_agent stranger
  eventually "let NetBird refuse the agent" says stranger 'setup key is invalid'
  run "grep -o 'setup key is invalid' $WORK/stranger.log | head -1" invalid
  say "It is no peer, and the laptop is still connected:"
  run "$PEERS" '"connected":true "hostname":"laptop"'
  if [[ $output == *stranger* ]]; then fail "a revoked key has admitted a machine"; fi
}

deletion() {
  numbered "Deleting the SetupKey deletes the key at NetBird"
  say "When kubectl returns, nothing is left by which a machine could join:"
  run "kubectl delete sk office --timeout=${PATIENCE}s"
  run "netbird-api setup-keys" '^\[\]$'
  say "Keys are for joining, not for staying. The laptop is still connected:"
  run "$PEERS" '"connected":true "hostname":"laptop"'
  say "The operator has written neither the key nor the token to its log:"
  refused "grep --count --fixed-strings --file=$NETBIRD_TOKEN_FILE --file=$KEY_FILE $LOG" '^0$'
}

command -v curl >/dev/null || fail "the demo needs curl, which is not installed"
for part in set_up an_authority a_key an_agent_joins revocation deletion; do $part; done
say "Every claim was checked and holds. The demo took $SECONDS seconds."
if [[ ${KEEP:-0} == 1 ]]; then keep; fi
