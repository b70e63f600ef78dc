#!/usr/bin/env bash
# The script of `make demo`: shows with kubectl what a SetupKey does, on a control plane of its own or, with
# CLUSTER=current, on the cluster of the current context.
#
# Every command is printed before its output, and every claim is checked. The first claim that fails ends the demo with
# exit code 1. KEEP=1 leaves everything as it is until Ctrl-C. With NODE=1 the cluster has a node, and a pod on it reads a
# key. CHAPTERS="keys_from_manifests deletion" shows some chapters only.
set -euo pipefail
cd "$(dirname "$0")/.."
source hack/demo-stage.sh

readonly CALLER=terraform
readonly SERVICE_ACCOUNT=setupkey-operator-enrollment SERVICE_KUBECONFIG=$WORK/service.kubeconfig
readonly LIFETIME=1m # of ephemeral peers; the shortest allowed
url='' machine=''

office() { kubectl get sk office -o jsonpath="{.status.$1}"; }
has_new_key() { local now; now=$(office digest) && [[ -n $now && $now != "$1" ]]; }
has_event() { kubectl events --for sk/office | grep -Eq "$1"; }

# The enrollment service, with the rights of its own account.
start_service() {
  local port probes
  kubeconfig_of "$SERVICE_ACCOUNT" "$SERVICE_KUBECONFIG"
  port=$(free_port) probes=$(free_port)
  url=http://127.0.0.1:$port
  program "$SERVICE_KUBECONFIG" enrollment ${SCOPE[@]+"${SCOPE[@]}"} --address "127.0.0.1:$port" \
    --health-address "127.0.0.1:$probes" --peer-lifetime "$LIFETIME" >"$WORK/service.log" 2>&1 &
  eventually "let the enrollment service become ready" answers_ready "127.0.0.1:$probes"
}

# A machine that joins with the key in a mounted file and keeps running in the background. $machine is its process id.
start_machine() {
  NO_COLOR=1 "$PROGRAM" enroll --server "$url" --hostname "$1" --state-file "$WORK/$1.state" \
    --key-file "$2/setup-key" --heartbeat 10s >"$WORK/$1.log" 2>&1 &
  machine=$!
}

has_joined() { grep -q ' joined ' "$WORK/$1.log"; }
peer_of() { kubectl get peers -o jsonpath="{.items[?(@.spec.hostname==\"$1\")].metadata.name}"; }

set_up() {
  chapter "Setting up"
  if [[ ${CLUSTER:-} == current ]]; then
    install
  else
    say "The operator gets the rights in deploy/rbac.yaml and no others. Admission policies guard what it writes:"
    run "kubectl apply -f deploy/rbac.yaml -f deploy/enrollment-rbac.yaml -f deploy/guards.yaml"
    run "kubectl create namespace $NAMESPACE"
  fi
  start_operator --peer-lifetime "$LIFETIME"
  say "It runs on this machine with a token of its ServiceAccount. It is not an administrator:"
  run "kubectl --kubeconfig $OPERATOR_KUBECONFIG auth whoami -o jsonpath='{.status.userInfo.username}'" \
    "^system:serviceaccount:$ACCOUNT_NAMESPACE:$ACCOUNT\$"
  refused "kubectl --kubeconfig $OPERATOR_KUBECONFIG auth can-i '*' '*'" '^no$'
}

keys_from_manifests() {
  numbered "A setup key is a resource"
  say "Three keys: for up to 50 machines of an office, for a single laptop, and from a Kustomize overlay:"
  run "kubectl apply -f examples/setupkey.yaml -f examples/one-off.yaml"
  run "kubectl apply -k examples/kustomize/production"
  run "$AWAIT --for=condition=Ready sk --all"
  run "kubectl get sk" 'office +reusable +valid +0 +50 .* True' 'laptop-ada +one-off +valid +0 +1 .* True' \
    'gateways-production +reusable +valid +0 +10 .* True'
}

the_secret() {
  local value="kubectl get secret office -o jsonpath='{.data.setup-key}' | base64 -d"
  numbered "The key is in a Secret, and nowhere else"
  say "Pods mount this Secret like any other:"
  run "kubectl describe secret office" 'setup-key: +36 bytes'
  say "kubectl's plugin prints the key, with the right to get the Secret. This demo masks it before it prints it:"
  run "kubectl setupkey reveal office | sed -E 's/^(.{5}).*/\\1****/'" "^$(office key | tr -d '*')\*{4}\$"
  say "The status contains the same mask, and the SHA-256 by which the operator recognises the key:"
  run "kubectl get sk office -o jsonpath='{.status.key}{\"\\n\"}{.status.digest}'"
  run "$value | openssl dgst -sha256 -binary | base64"
  [[ $output == "$(office digest)" ]] || fail "the digest in the status is not that of the key in the Secret"
}

# With a node only: without one, a pod is accepted and never runs.
a_pod_reads_it() {
  numbered "A pod mounts the key"
  say "This pod can only read the file. It prints the key, masked:"
  run "kubectl apply -f - <<'YAML'
apiVersion: v1
kind: Pod
metadata: {name: reader}
spec:
  restartPolicy: Never
  securityContext: {runAsNonRoot: true, runAsUser: 65532, fsGroup: 65532, seccompProfile: {type: RuntimeDefault}}
  containers:
    - name: reader
      image: localhost/setupkey-node:shell
      command: [sed, -E, 's/^(.{5}).*/\\1****/', /etc/netbird/setup-key]
      volumeMounts: [{name: key, mountPath: /etc/netbird, readOnly: true}]
      securityContext:
        {allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {drop: [ALL]}}
  volumes: [{name: key, secret: {secretName: office, defaultMode: 0400}}]
YAML"
  run "$AWAIT --for=jsonpath='{.status.phase}'=Succeeded pod/reader"
  run "kubectl logs reader" "^$(office key | tr -d '*')\*{4}\$"
  say "It is the key whose mask is in the status:"
  run "kubectl get sk office -o jsonpath='{.status.key}'"
}

enrollment() {
  local name secrets="$WORK/secrets"
  numbered "Machines join with the key, up to its limit"
  start_service
  say "The enrollment service has an account of its own, which cannot read Secrets:"
  refused "kubectl --kubeconfig $SERVICE_KUBECONFIG auth can-i get secrets" '^no$'
  say "A key for three machines, and one for machines that come and go:"
  run "kubectl apply -f - <<< 'apiVersion: setupkey.dev/v1alpha1
kind: SetupKey
metadata: {name: sensors}
spec: {usageLimit: 3, autoGroups: [sensors]}'"
  run "kubectl apply -f - <<< 'apiVersion: setupkey.dev/v1alpha1
kind: SetupKey
metadata: {name: jobs}
spec: {ephemeral: true}'"
  run "$AWAIT --for=condition=Ready sk/sensors sk/jobs"
  mount_secret sensors "$secrets/sensors"
  mount_secret jobs "$secrets/jobs"
  say "A job joins, then is killed before it can leave:"
  start_machine job "$secrets/jobs"
  eventually "let the job join" has_joined job
  # Without this wait, the shell would report the kill.
  kill -KILL "$machine"
  wait "$machine" 2>/dev/null || true
  run "kubectl get peers" 'job .* true'
  job=$(peer_of job)
  say "Three machines join, each with the mounted key file:"
  for name in sensor-1 sensor-2 sensor-3; do
    start_machine "$name" "$secrets/sensors"
    eventually "let $name join" has_joined "$name"
  done
  say "What needs a person comes first in the list of kubectl's plugin:"
  run "kubectl setupkey list" $'NOTE\nsensors +reusable +overused +3/3 .* refuses machines' 'office +reusable +valid +0/50'
  run "kubectl get peers -l group.setupkey.dev/sensors" sensor-1 sensor-2 sensor-3
  say "A fourth is refused, because the limit is reached:"
  refused "$PROGRAM enroll --server $url --hostname sensor-4 --state-file $WORK/sensor-4.state \\
    --key-file $secrets/sensors/setup-key" 'this setup key does not admit this machine'
}

what_it_tells() {
  numbered "Events report what happened, and kubectl explains each field"
  say "The history of this key:"
  eventually "record an event" has_event Issued
  run "kubectl events --for sk/office" Issued
  say "All about one key:"
  run "kubectl setupkey status office" '^office  reusable · valid · Ready' 'uses +0 of 50' 'findings +none'
  say "What a field accepts, and whether it can be changed:"
  run "kubectl explain sk.spec.expiresIn" '24h to'
}

# A manifest with this spec must be refused with this message.
mistake() {
  refused "kubectl apply -f - <<< 'apiVersion: setupkey.dev/v1alpha1
kind: SetupKey
metadata: {name: mistake}
spec: {$1}'" "$2"
  [[ -z $(kubectl get sk mistake --ignore-not-found -o name) ]] || fail "the SetupKey was created all the same"
}

mistakes() {
  numbered "A mistake is refused at once, with a message that says what to do"
  say "A lifetime in days:"
  mistake "expiresIn: 30d" '30 days are 720h'
  say "A one-off key for five machines:"
  mistake "type: one-off, usageLimit: 5" 'a one-off key can be used once'
  say "A type that does not exist:"
  mistake "type: single" 'supported values: "reusable", "one-off"'
  say "A label by which Argo CD would claim the Secret, and delete it:"
  mistake "secret: {labels: {app.kubernetes.io/instance: network}}" 'track objects'
  say "A new lifetime for an existing key:"
  refused "kubectl patch sk office --type=merge -p '{\"spec\": {\"expiresIn\": \"24h\"}}'" 'expiresIn cannot be'
}

revocation() {
  local conditions='{range .status.conditions[*]}{.type}={.status} {.reason}: {.message}{"\n"}{end}'
  numbered "A key can be revoked, and the revocation can be undone"
  say "A key that is revoked stops without being deleted. kubectl's plugin sets revoked in the spec, and waits:"
  run "kubectl setupkey revoke office" '^setupkey office: revoked$'
  run "kubectl get sk office" 'office +reusable +revoked .* True'
  say "Ready: the cluster matches the spec. Valid: the key admits peers."
  run "kubectl get sk office -o jsonpath='$conditions'" 'Ready=True' 'Valid=False Revoked'
  say "The way back:"
  run "kubectl setupkey unrevoke office" '^setupkey office: valid$'
  run "kubectl get sk office" 'office +reusable +valid .* True'
}

tampering() {
  local columns=ID:.status.id,KEY:.status.key,DIGEST:.status.digest id first second
  local look="kubectl get sk office -o custom-columns=$columns"
  id=$(office id) first=$(office digest)
  numbered "Only the operator chooses a key"
  say "The key before:"
  run "$look" "$id"
  say "A user writes another value into the Secret. The operator replaces it with a new key, under the same id:"
  run "kubectl patch secret office --type=merge -p '{\"stringData\": {\"setup-key\": \"a value that I know\"}}'"
  eventually "replace the value" has_new_key "$first"
  run "$look" "$id"
  second=$(office digest)
  say "A user deletes the Secret. The operator creates it again, with another new key:"
  run "kubectl delete secret office"
  eventually "create the Secret again" has_new_key "$second"
  run "kubectl get secret office"
  run "$look" "$id"
  say "An administrator writes the digest of a known value into the status. A policy refuses that:"
  refused "kubectl patch sk office --subresource=status --type=merge -p '{\"status\": {\"digest\": \"known\"}}'" \
    'change the spec instead'
  say "An event reports both new keys:"
  eventually "record an event" has_event '\(x2 over .* KeyRegenerated '
  run "kubectl events --for sk/office" KeyRegenerated
}

conflict() {
  local ready='.status.conditions[?(@.type=="Ready")]'
  numbered "A Secret that belongs to someone else is left alone"
  say "A Secret already exists under the name that the next SetupKey needs:"
  run "kubectl create secret generic cameras --from-literal=password=theirs"
  run "kubectl apply -f - <<< 'apiVersion: setupkey.dev/v1alpha1
kind: SetupKey
metadata: {name: cameras}
spec: {}'"
  run "$AWAIT --for=condition=Stalled sk/cameras"
  run "kubectl get sk cameras -o jsonpath='{$ready.reason}: {$ready.message}'" '^SecretConflict: .*Delete that'
  run "kubectl get secret cameras -o jsonpath='{.data.password}' | base64 -d" '^theirs$'
  say "Once that Secret is gone, the key is issued:"
  run "kubectl delete secret cameras"
  run "$AWAIT --for=condition=Ready sk/cameras"
  run "kubectl get sk cameras" 'cameras +reusable +valid .* True'
}

deletion() {
  numbered "Deleting a SetupKey deletes its Secret"
  say "The SetupKey owns the Secret, so Kubernetes garbage-collects it:"
  run "kubectl delete sk office"
  run "$AWAIT --for=delete secret/office"
  refused "kubectl get secret office" NotFound
  say "The other keys stay:"
  run "kubectl get sk,secrets" setupkey.setupkey.dev/laptop-ada secret/laptop-ada
}

rotation() {
  local secrets=$WORK/secrets uses='{.status.previous[0].usedTimes} with the old key, {.status.usedTimes} with the next'
  numbered "A key is replaced, and no machine is cut off"
  say "An annotation asks for the next key; the plugin sets it, and waits. A schedule can do so too, by rotation.renewBefore:"
  run "kubectl setupkey rotate jobs --wait" '^setupkey jobs: revision 2 issued .* admits until '
  mount_secret jobs "$secrets/jobs-next"
  say "For a day, machines join with the old key and with the next. Each key counts its own uses:"
  start_machine job-old "$secrets/jobs"
  eventually "let job-old join" has_joined job-old
  start_machine job-next "$secrets/jobs-next"
  eventually "let job-next join" has_joined job-next
  run "kubectl get sk jobs -o jsonpath='$uses'" '^2 with the old key, 1 with the next$'
  say "With an overlap of 0s, the old key ends at once:"
  run "kubectl patch sk jobs --type=merge -p '{\"spec\": {\"rotation\": {\"overlap\": \"0s\"}}}'"
  refused "$PROGRAM enroll --server $url --hostname job-late --state-file $WORK/job-late.state \\
    --key-file $secrets/jobs/setup-key" 'this setup key does not admit this machine'
  mount_secret jobs "$secrets/jobs"
  start_machine job-late "$secrets/jobs"
  eventually "let job-late join" has_joined job-late
  run "kubectl get sk jobs -o wide" 'jobs +reusable +valid +2 .* True +2 '
}

peers_outlive_keys() {
  numbered "Keys are for joining, not for staying"
  say "A revoked key admits no machine:"
  run "kubectl setupkey revoke jobs" '^setupkey jobs: revoked$'
  refused "$PROGRAM enroll --server $url --hostname job-2 --state-file $WORK/job-2.state \\
    --key-file $WORK/secrets/jobs/setup-key" 'this setup key does not admit this machine'
  say "The SetupKey of the sensors is deleted. Their Peers stay:"
  run "kubectl delete sk sensors"
  run "kubectl get peers -l setupkey.dev/key=sensors" sensor-1 sensor-2 sensor-3
  say "The job is ephemeral. It was not seen for $LIFETIME (10 minutes by default), so it is removed:"
  run "kubectl wait --timeout=120s --for=delete peer/$job"
  run "kubectl get peers" sensor-1 sensor-2 sensor-3
}

# The token goes through a file, because every user of this machine can read command lines.
start_rest_api() {
  local port health
  kubectl create token "$CALLER" --duration 1h | sed 's/^/Authorization: Token /' >"$WORK/authorization"
  port=$(free_port) health=$(free_port)
  kubeconfig_with "$WORK/api.kubeconfig" ''
  program "$WORK/api.kubeconfig" api --address "127.0.0.1:$port" --health-address "127.0.0.1:$health" \
    >"$WORK/api.log" 2>&1 &
  API=http://127.0.0.1:$port/api/setup-keys
  eventually "see the REST API become ready" answers_ready "127.0.0.1:$health"
}

rest_api() {
  local call="curl --silent --show-error --header @$WORK/authorization" account=$NAMESPACE:$CALLER
  local id name
  local mask="sed -E 's/(\"key\":\".{5})[^\"]*/\\1****/'"
  numbered "NetBird's clients need only another URL"
  say "The REST API has no rights of its own. Callers send their token, here that of a ServiceAccount:"
  run "kubectl create serviceaccount $CALLER"
  run "kubectl create role setup-keys --verb=list,get,create,patch,delete --resource=setupkeys.setupkey.dev"
  run "kubectl create role setup-keys-secrets --verb=get --resource=secrets"
  run "kubectl create rolebinding setup-keys --role=setup-keys --serviceaccount=$account"
  run "kubectl create rolebinding setup-keys-secrets --role=setup-keys-secrets --serviceaccount=$account"
  start_rest_api
  say "Without a token, a call is refused:"
  run "curl --silent $API" '"code":401'
  say "A new key, requested as NetBird's clients do. The answer contains the key, which this demo masks:"
  run "$call $API --data '{\"name\": \"Office, 2nd floor\", \"type\": \"reusable\", \"expires_in\": 86400,
    \"usage_limit\": 5, \"auto_groups\": [\"office\"]}' | $mask" '"state":"valid"'
  id=$(grep -oE '"id":"[0-9a-v]{20}"' <<<"$output" | cut -d '"' -f 4)
  say "The list shows it beside the keys that were applied:"
  run "$call $API | tr '{' '\n' | grep -oE '\"(name|state)\":\"[^\"]*\"' | paste - -" 'Office, 2nd floor' "Ada's laptop"
  say "Revoking it over REST:"
  run "$call $API/$id --request PUT --data '{\"revoked\": true, \"auto_groups\": [\"office\"]}'" '"state":"revoked"'
  say "kubectl shows the change:"
  name=$(kubectl get sk --field-selector "status.id=$id" -o jsonpath='{.items[0].metadata.name}')
  run "$AWAIT --for=condition=Valid=false sk/$name"
  run "kubectl get sk" "$name +reusable +revoked .* True" 'laptop-ada +one-off +valid'
}

for needed in openssl curl; do
  command -v "$needed" >/dev/null || fail "the demo needs $needed, which is not installed"
done
chapters=(keys_from_manifests the_secret)
if [[ ${NODE:-0} == 1 ]]; then chapters+=(a_pod_reads_it); fi
# A machine that ends in the chapter enrollment is missed a minute later. The chapters between do not wait for that.
chapters+=(enrollment what_it_tells mistakes revocation tampering conflict deletion rotation peers_outlive_keys rest_api)
chosen=${CHAPTERS:-${chapters[*]}}
for name in $chosen; do
  [[ " ${chapters[*]} " == *" $name "* ]] || fail "CHAPTERS names \"$name\"; there are: ${chapters[*]}"
done
set_up
for name in $chosen; do $name; done
say "Every claim was checked and holds. The demo took $SECONDS seconds."
if [[ ${KEEP:-0} == 1 ]]; then keep; fi
