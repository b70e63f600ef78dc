# Sourced by demo-stage.sh for `make demo CLUSTER=current`: the demo on a cluster that is not its own. It says what it
# is about to do and asks. It refuses to disturb an installation. At the end it removes what it created, and looks.
# shellcheck shell=bash

# Every object that the demo creates is in one of these namespaces, or has this label.
RUN=$(printf '%05x' $((RANDOM * 32 + RANDOM % 32)))
readonly RUN NAMESPACE=setupkey-demo-$RUN ACCOUNT_NAMESPACE=setupkey-demo-$RUN-system
readonly LABEL=setupkey.dev/demo=$RUN
readonly CRDS=$WORK/crds.json RIGHTS=$WORK/rights.json
readonly MINOR=33 # the oldest Kubernetes 1.x that the operator works on
# The garbage collector of a cluster looks for new kinds twice a minute.
readonly PATIENCE=${PATIENCE:-120} REMOVAL=120
# The operator looks at no other namespace.
# shellcheck disable=SC2034 # for demo-stage.sh and demo.sh
readonly SCOPE=(--namespace "$NAMESPACE")

context='' # of the user
created='' # not empty once there can be objects to remove
kinds=''   # of these objects

refuse() { printf '\n%s\n' "$*" >&2; exit 1; }

# Commands of the user's kubectl, which a second Ctrl-C does not disturb.
cluster() { kubectl --request-timeout=30s "$@" </dev/null; }

one_line() { tr '\n' ' ' | sed 's/ *$//'; }

# The manifests of the chart, with the demo's namespace and label.
prepare() {
  local file
  sed "s/setupkey-system/$ACCOUNT_NAMESPACE/g" deploy/rbac.yaml >"$WORK/rbac.yaml"
  sed "s/setupkey-system/$ACCOUNT_NAMESPACE/g" deploy/enrollment-rbac.yaml >"$WORK/enrollment-rbac.yaml"
  sed "s/setupkey-system/$ACCOUNT_NAMESPACE/g" deploy/guards.yaml >"$WORK/guards.yaml"
  for file in rbac enrollment-rbac guards; do
    if grep -q setupkey-system "$WORK/$file.yaml" || ! grep -q "$ACCOUNT_NAMESPACE" "$WORK/$file.yaml"; then
      fail "the namespace in deploy/$file.yaml could not be replaced"
    fi
  done
  printf 'apiVersion: v1\nkind: Namespace\nmetadata: {name: %s}\n' "$NAMESPACE" >"$WORK/namespace.yaml"
  kubectl label --local --output json --filename crds "$LABEL" >"$CRDS"
  kubectl label --local --output json "$LABEL" --filename "$WORK/namespace.yaml" --filename "$WORK/rbac.yaml" \
    --filename "$WORK/enrollment-rbac.yaml" --filename "$WORK/guards.yaml" >"$RIGHTS"
  kubectl label --local --output name --filename "$CRDS" --filename "$RIGHTS" "$LABEL" >"$WORK/names"
  kinds=$(cut -d / -f 1 "$WORK/names" | sort -u | paste -sd , -)
}

# The objects of one kind, below its plural.
list() { printf '\n  %s\n' "$2"; sed -n -E "s%^$1(\.[^/]*)?/%    %p" "$WORK/names"; }

# What is about to happen, and where. The proxy of a cluster may have a password in its URL, so it is not shown.
introduce() {
  chapter "The story of a SetupKey, on a cluster that you have"
  printf '\n'
  printf '  %-12s%s\n' context "$1" cluster "$2" server "$3" Kubernetes "$4"
  say "The demo creates there, and removes at the end, also when it fails or is interrupted:"
  list namespace "namespaces, for everything that has one"
  list customresourcedefinition CustomResourceDefinitions
  list clusterrole "ClusterRoles, each with a binding"
  list validatingadmissionpolicy "ValidatingAdmissionPolicies, each with a binding"
  say "All of them have the label $LABEL. The operator runs on this machine, with a token of a ServiceAccount
that has the chart's rights, and works in the namespace $NAMESPACE only."
}

may() { cluster auth can-i "$@" --all-namespaces >"$WORK/answer" 2>&1; }

# Fails with the rights that the user lacks. An administrator may do anything, so that one question is enough.
check_rights() {
  local kind verb lacking=()
  if may '*' '*'; then return; fi
  for kind in ${kinds//,/ } secrets events peers.setupkey.dev setupkeys.setupkey.dev; do
    for verb in create get list delete; do
      may "$verb" "$kind" || lacking+=("$verb $kind")
    done
  done
  may patch setupkeys.setupkey.dev || lacking+=("patch setupkeys.setupkey.dev")
  may patch secrets || lacking+=("patch secrets")
  may create serviceaccounts --subresource=token || lacking+=("create serviceaccounts/token")
  # To grant a right, a user needs that right, or these.
  for verb in escalate bind; do
    may "$verb" clusterroles || lacking+=("$verb clusterroles")
    may "$verb" roles || lacking+=("$verb roles")
  done
  if ((${#lacking[@]} > 0)); then
    refuse "The demo was not started: your user may not do all that it needs. Missing, in all namespaces:
$(printf '  %s\n' "${lacking[@]}")"
  fi
}

# The demo would disturb an installation, and removing its CRDs would remove its keys.
check_absence() {
  local found
  found=$(cluster get customresourcedefinitions --output name)
  found=$(grep -E '[/.]setupkey\.dev$' <<<"$found" || true)
  found+=$'\n'$(cluster get deployments --all-namespaces --selector app.kubernetes.io/name=setupkey-operator \
    --output name)
  found+=$'\n'$(cluster get "$kinds" --all-namespaces --selector setupkey.dev/demo --output name)
  # Objects in namespaces of the demo cannot be there yet.
  found+=$'\n'$(grep -E '^(clusterrole|validatingadmission)' "$WORK/names" |
    xargs kubectl get --ignore-not-found --output name)
  found=$(sort -u <<<"$found" | sed '/^$/d')
  [[ -n $found ]] || return 0
  printf '\n%s\n' "The demo was not started: setupkey-operator is installed in this cluster, or parts of it. Found:
  ${found//$'\n'/$'\n'  }
The demo would disturb an installation, and at the end it would remove the CRDs with all keys. Use another cluster." >&2
  if [[ $(cluster get customresourcedefinitions --selector setupkey.dev/demo --output name) != '' ]]; then
    printf '%s\n  %s\n' "Some are of a demo that still runs, or was killed. If none runs, this removes what is left of all demos:" \
      "kubectl delete $kinds --all-namespaces --selector setupkey.dev/demo" >&2
  fi
  exit 1
}

confirm() {
  local answer
  if [[ ${YES:-} == 1 ]]; then return; fi
  [[ -t 0 ]] || refuse "The demo was not started: there is no terminal to ask at. YES=1 lets it start without a question."
  printf '\nContinue? [y/N] '
  read -r answer || answer=''
  case $answer in
  y | Y | yes | Yes) ;;
  *) refuse "The demo was not started, and nothing was created." ;;
  esac
}

take_cluster() {
  local name server version
  command -v kubectl >/dev/null ||
    refuse "CLUSTER=current needs kubectl, which is not on the PATH: see https://kubernetes.io/docs/tasks/tools/"
  context=$(kubectl config current-context 2>/dev/null || true)
  [[ -n $context ]] ||
    refuse "CLUSTER=current needs a current context, and your kubeconfig has none: see kubectl config get-contexts"
  name=$(kubectl config view --minify --output jsonpath='{.clusters[0].name}')
  server=$(kubectl config view --minify --output jsonpath='{.clusters[0].cluster.server}')
  use_namespace
  version=$(cluster get --raw /version 2>&1) ||
    refuse "The demo was not started: the API server at $server does not answer kubectl: $(one_line <<<"$version")"
  prepare
  introduce "$context" "$name" "$server" "$(sed -n 's/.*"gitVersion": *"\([^"]*\)".*/\1/p' <<<"$version")"
  version=$(sed -n 's/.*"minor": *"\([0-9]*\).*/\1/p' <<<"$version")
  [[ $version -ge $MINOR ]] ||
    refuse "The demo was not started: the cluster runs Kubernetes 1.$version, and the operator needs 1.$MINOR or later."
  check_rights
  check_absence
  confirm
}

# Creates, and never applies: nothing of others is taken over.
install() {
  # shellcheck disable=SC2034 # for demo-stage.sh
  created=yes
  say "The CustomResourceDefinitions of this repository, with a label by which the demo finds them again:"
  run "kubectl create -f $CRDS"
  run "$AWAIT --for=condition=Established -f $CRDS"
  say "The chart's rights, in the demo's own namespace, and the admission policies that guard what the operator writes:"
  run "kubectl create -f $RIGHTS"
}

left() { cluster get "$kinds" --all-namespaces --selector "$LABEL" --output name; }

# What the demo did not create, but would be removed with the CRDs.
others() {
  local crds
  crds=$(cluster get customresourcedefinitions --selector "$LABEL" --output jsonpath='{.items[*].metadata.name}') ||
    return 1
  [[ -n $crds ]] || return 0
  # kubectl may remember the kinds from before these came.
  rm -rf "$KUBECACHEDIR"
  cluster get "${crds// /,}" --all-namespaces --output name
}

# An object with a finalizer stays until its controller lets go, and the operator has ended.
let_go() {
  local name
  for name in $(cluster get setupkeys.setupkey.dev,peers.setupkey.dev --namespace "$NAMESPACE" --output name); do
    cluster patch "$name" --namespace "$NAMESPACE" --type=merge --patch '{"metadata": {"finalizers": null}}'
  done >/dev/null 2>&1
}

# Deletes the objects of these kinds until none is left: a request that was under way when the demo was interrupted may
# create something late.
remove() {
  local left
  while ((SECONDS < deadline)); do
    cluster delete "$1" --all-namespaces --selector "$LABEL" --wait=false
    left=$(cluster get "$1" --all-namespaces --selector "$LABEL" --output name) && [[ -z $left ]] && return 0
    if ((SECONDS > deadline - REMOVAL + 10)); then let_go; fi
    sleep 1
  done >/dev/null 2>>"$WORK/removal.log"
  return 1
}

# The CRDs go last, because nothing of others may go with them.
remove_all() {
  local crds=customresourcedefinition.apiextensions.k8s.io deadline=$((SECONDS + REMOVAL)) found
  say "Removing what the demo created in the cluster."
  if remove "${kinds/$crds,/}"; then
    # New kinds are served a moment after they came.
    until found=$(others 2>>"$WORK/removal.log") || ((SECONDS > deadline)); do sleep 1; done
    if [[ -n $found ]]; then
      printf '\n%s\n' "These objects are not of the demo. They would be removed with its CRDs, so the CRDs stay:
  ${found//$'\n'/$'\n'  }" >&2
    elif remove "$crds"; then
      say "Nothing of the demo is left in the cluster."
      return 0
    fi
  fi
  if found=$(left 2>>"$WORK/removal.log"); then found="Left:
  ${found//$'\n'/$'\n'  }"; else found=$(tail -n 1 "$WORK/removal.log"); fi
  printf '\n%s\n' "The demo could not remove everything that it created. $found
This command removes the rest:
  kubectl --context '$context' delete $kinds --all-namespaces --selector $LABEL" >&2
  return 1
}
