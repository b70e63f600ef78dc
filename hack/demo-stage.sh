# Sourced by the scripts of `make demo`: shows commands, checks claims, runs the operator, and cleans up.
# shellcheck shell=bash

umask 077 # so that no other user can read the tokens
case ${CLUSTER:-} in
'')
  # The launcher always removes its folder at the end, and ours with it, so that no token outlives the demo.
  readonly WORK=${CONTROL_PLANE_DIR:?is not set: run make demo, which starts a control plane first}/demo
  mkdir "$WORK"
  readonly NAMESPACE=setupkey-demo ACCOUNT_NAMESPACE=setupkey-system
  # Seconds. Longer than any wait of a demo takes, even on a busy machine.
  readonly PATIENCE=${PATIENCE:-30}
  readonly SCOPE=()
  ;;
current)
  WORK=$(mktemp -d "${TMPDIR:-/tmp}/setupkey-demo-XXXXXX")
  readonly WORK
  source hack/demo-cluster.sh
  ;;
*)
  printf 'CLUSTER is "%s": it must be "current", or absent for a control plane of its own\n' "$CLUSTER" >&2
  exit 1
  ;;
esac
readonly LOG=$WORK/operator.log OPERATOR_KUBECONFIG=$WORK/operator.kubeconfig
readonly ACCOUNT=setupkey-operator PROGRAM=${SETUPKEY_OPERATOR:-target/debug/setupkey-operator}
# shellcheck disable=SC2034 # for the scripts that source this
readonly AWAIT="kubectl wait --timeout=${PATIENCE}s"

operator='' # its process id, once it runs
keeping=''  # not empty once the demo only waits for Ctrl-C
number=0    # of the current chapter
output=''   # what the last shown command printed
bold='' accent='' plain=''
if [[ -t 1 && -z ${NO_COLOR:-} && ${TERM:-dumb} != dumb ]]; then bold=$'\e[1m' accent=$'\e[36m' plain=$'\e[0m'; fi

chapter() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }
numbered() { chapter "$((++number)). $*"; }
say() { printf '\n%s\n' "$*"; }
fail() { printf '\nThe demo failed: %s.\n' "$*" >&2; exit 1; }

# Shows a command, runs it, shows what it printed, and returns its exit code.
#
# The command runs in the background, because a signal interrupts `wait` but not a command in the foreground. Output
# that looks like a whole key ends the demo instead of being shown.
show() {
  local code=0
  printf '%s$ %s%s\n' "$accent" "$1" "$plain"
  bash -o pipefail -c "$1" >"$WORK/output" 2>&1 &
  wait $! || code=$?
  output=$(<"$WORK/output")
  if [[ $output =~ [0-9A-F]{8}(-[0-9A-F]{4}){3}-[0-9A-F]{12} ]]; then fail "that would have printed a whole key"; fi
  if [[ -n $output ]]; then printf '%s\n' "$output"; fi
  return "$code"
}

# A command that must succeed. Its output must match the patterns that follow.
run() { show "$1" || fail "this command should have succeeded"; expect "${@:2}"; }

# A command that must fail. Its output must match the patterns that follow.
refused() { if show "$1"; then fail "this command should have been refused"; fi; expect "${@:2}"; }

expect() {
  local pattern
  for pattern in "$@"; do [[ $output =~ $pattern ]] || fail "the output above does not match \"$pattern\""; done
}

# Waits silently until the command after the first argument succeeds.
eventually() {
  local deadline=$((SECONDS + PATIENCE))
  until "${@:2}" >/dev/null 2>&1; do
    kill -0 "$operator" 2>/dev/null || fail "the operator ended before it could $1"
    ((SECONDS < deadline)) || fail "waited $PATIENCE s for the operator to $1"
    sleep 0.1
  done
}

answers_ready() { kubectl --kubeconfig=/dev/null --server="http://$1" get --raw /readyz; }

# Commands use a context with the demo's namespace, whatever the user's current context becomes meanwhile. Its file names a
# cluster and a user. kubectl takes their addresses and credentials from the files after it.
use_namespace() {
  local name user
  name=$(kubectl config view --minify --output jsonpath='{.contexts[0].context.cluster}')
  user=$(kubectl config view --minify --output jsonpath='{.contexts[0].context.user}')
  kubectl --kubeconfig "$WORK/context" config set-context "$NAMESPACE" --cluster "$name" --user "$user" \
    --namespace "$NAMESPACE" >/dev/null
  kubectl --kubeconfig "$WORK/context" config use-context "$NAMESPACE" >/dev/null
  export KUBECONFIG=$WORK/context:${KUBECONFIG:-$HOME/.kube/config}
}

# Writes a kubeconfig that reaches the same cluster as this user. What it says of a user is the second argument.
kubeconfig_with() {
  local cluster
  cluster=$(kubectl config view --raw --minify --flatten --output jsonpath='{.clusters[0].cluster}')
  [[ $cluster == '{'* ]] || fail "kubectl printed the cluster of the kubeconfig in an unknown format"
  cat >"$1" <<YAML
apiVersion: v1
kind: Config
current-context: demo
contexts: [{name: demo, context: {cluster: demo, user: demo, namespace: $NAMESPACE}}]
users: [{name: demo, user: {$2}}]
clusters: [{name: demo, cluster: $cluster}]
YAML
}

# With the token of an account. The token goes from file to file, because every user of this machine can read command lines.
kubeconfig_of() {
  kubectl create token "$1" --namespace "$ACCOUNT_NAMESPACE" --duration 24h >"$2.token"
  kubeconfig_with "$2" "tokenFile: \"$2.token\""
}

# The arguments: a kubeconfig, then those of the program.
program() {
  # Namespaces in the caller's environment would narrow its scope; colours do not belong in a file.
  exec env -u SETUPKEY_NAMESPACES -u POD_NAMESPACE NO_COLOR=1 KUBECONFIG="$1" "$PROGRAM" "${@:2}"
}

# Below the ephemeral ports, so that no outgoing connection takes it before the operator does.
free_port() {
  local port
  while port=$((20000 + RANDOM % 12000)); (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do :; done
  printf '%s' "$port"
}

# The arguments are further flags.
start_operator() {
  local port
  kubeconfig_of "$ACCOUNT" "$OPERATOR_KUBECONFIG"
  port=$(free_port)
  program "$OPERATOR_KUBECONFIG" controller ${SCOPE[@]+"${SCOPE[@]}"} --health-address "127.0.0.1:$port" "$@" \
    >"$LOG" 2>&1 &
  operator=$!
  eventually "become ready" answers_ready "127.0.0.1:$port"
}

# Writes the data of a Secret to a file, as the kubelet does for a pod.
mount_secret() {
  mkdir -p "$2"
  kubectl get secret "$1" -o jsonpath='{.data.setup-key}' | base64 -d >"$2/setup-key"
}

# Ends the processes of this shell: the operator, and a command that was interrupted. Removes what they created.
clean_up() {
  local code=$? children
  trap '' INT TERM HUP PIPE
  set +e # every step is taken, and the output may have gone
  if ((code != 0 && code < 128)) && [[ -n $operator ]]; then
    if kill -0 "$operator" 2>/dev/null; then say "The operator is still running."; else say "The operator has ended."; fi
    printf 'The last lines of its log:\n%s\n' "$(tail -n 15 "$LOG")"
  fi >&2
  children=$(jobs -p)
  # shellcheck disable=SC2086 # one argument for each process
  if [[ -n $children ]]; then kill $children 2>/dev/null; fi
  wait
  if [[ ${CLUSTER:-} == current ]]; then
    if [[ -n $created ]] && ! remove_all && ((code == 0)); then code=1; fi
    rm -rf "$WORK"
  fi
  exit "$code"
}

interrupted() { if [[ -n $keeping ]]; then exit 0; else exit "$1"; fi; }

keep() {
  local where="Control plane and operator"
  if [[ ${CLUSTER:-} == current ]]; then where="The operator and its keys"; fi
  say "$where stay until Ctrl-C. To use them from another terminal:"
  if [[ ${NODE:-0} == 1 ]]; then
    # The cluster has network and PID namespaces of its own.
    # shellcheck disable=SC2016 # for the reader's shell
    printf '  nsenter --target "$(pgrep --full "^[^ ]*control-plane run-inside")" --mount --net --pid bash # as root\n'
  fi
  printf '  export KUBECONFIG=%s\n' "$KUBECONFIG"
  if [[ ${CLUSTER:-} != current ]]; then
    printf "  export PATH=%s:%s:\$PATH # for kubectl and its plugin\n" "$(dirname "$(command -v kubectl)")" "${PATH%%:*}"
  fi
  printf 'The operator logs to %s\nCtrl-C here (or: kill %s) ends and removes everything.\n' "$LOG" $$
  keeping=yes
  wait "$operator" || true
  fail "the operator ended unexpectedly"
}

# kubectl finds its plugin beside the operator.
PATH=$(cd "$(dirname "$PROGRAM")" && pwd):$PATH
export PATH
export KUBECACHEDIR=$WORK/cache # not in the caller's home
# No proxy is between the programs on this machine.
NO_PROXY=${NO_PROXY:-${no_proxy:-}}
export NO_PROXY=127.0.0.1,localhost,::1${NO_PROXY:+,$NO_PROXY}
export no_proxy=$NO_PROXY
trap clean_up EXIT
trap 'interrupted 130' INT
trap 'interrupted 143' TERM HUP
trap 'interrupted 141' PIPE
if [[ ${CLUSTER:-} == current ]]; then take_cluster; else use_namespace; fi
