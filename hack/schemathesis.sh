#!/usr/bin/env bash
# Has schemathesis test the enrollment service from its OpenAPI document. Runs on the control plane that it was started with:
#   target/debug/control-plane run --crds crds -- hack/schemathesis.sh
set -euo pipefail
cd "$(dirname "$0")/.."
readonly ADDRESS=127.0.0.1:18080 PROBES=127.0.0.1:18081

kubectl apply --server-side --filename crds >/dev/null
target/debug/setupkey-operator enrollment --address "$ADDRESS" --health-address "$PROBES" --failures-per-minute 0 &
readonly service=$!
trap 'kill "$service"' EXIT
curl --silent --show-error --fail --retry 60 --retry-all-errors --retry-delay 1 "http://$PROBES/readyz" >/dev/null
# With a token that may be one, the calls of a peer get as far as looking for the peer.
schemathesis run --header "Authorization: Bearer $(printf 'a%.0s' {1..43})" "http://$ADDRESS/openapi.json" --checks all --max-examples 200
