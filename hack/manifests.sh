#!/usr/bin/env bash
# Packages the chart and renders the manifests of a release, into target/manifests: the chart, the whole default
# installation with its namespace, and the CRDs alone.
# Usage: make manifests [IMAGE=registry/name] [SOURCE=URL of the repository]
# IMAGE is where the chart's image is, without a tag.
set -euo pipefail
cd "$(dirname "$0")/.."

helm=$(realpath "${HELM:-target/tools/helm}")
out=${MANIFESTS:-target/manifests}
version=$(sed -n 's/^appVersion: //p' charts/setupkey-operator/Chart.yaml | tr -d \")
namespace=setupkey-system
for name in IMAGE SOURCE; do
	if [[ ! ${!name:-} =~ ^[A-Za-z0-9:/._-]*$ ]]; then
		echo "$name holds a character that is in no name of an image and in no URL of a repository" >&2
		exit 1
	fi
done

work=$(mktemp -d)
trap 'rm -r "$work"' EXIT
cp -r charts/setupkey-operator "$work/"
chart=$work/setupkey-operator
if [[ -n ${IMAGE:-} ]]; then
	sed -i "s#^  repository: .*#  repository: $IMAGE#" "$chart/values.yaml"
	sed -i "s#^      image: setupkey-operator:#      image: $IMAGE:#" "$chart/Chart.yaml"
fi
# What depends on the release: the changes, and links to the repository. Annotations are the last part of Chart.yaml.
changes=$(hack/changelog.sh "$version")
[[ -n $changes ]] || changes=$(hack/changelog.sh Unreleased)
{
	echo '  artifacthub.io/changes: |'
	# One entry for each point, with its first sentence as plain text.
	sed -E 's/\[([^]]*)\]\([^)]*\)/\1/g; s/`//g' <<<"$changes" | awk '
		function flush() {
			if (text == "") return
			sub(/[.] .*/, "", text)
			sub(/[.]$/, "", text)
			gsub(/\047/, "\047\047", text)
			printf "    - kind: %s\n      description: \047%s\047\n", kind, text
			text = ""
		}
		/^### / { flush(); kind = tolower($2); next }
		/^- / { flush(); text = substr($0, 3); next }
		/^  / && text != "" { text = text " " substr($0, 3) }
		END { flush() }'
	if [[ -n ${SOURCE:-} ]]; then
		printf '  artifacthub.io/links: |\n    - name: support\n      url: %s/issues\n' "$SOURCE"
		printf 'home: %s\nsources: [%s]\n' "$SOURCE" "$SOURCE"
	fi
} >>"$chart/Chart.yaml"

mkdir -p "$out"
rm -f "$out"/setupkey-operator-*.tgz
"$helm" package "$chart" --destination "$out" >/dev/null
package=("$out"/setupkey-operator-*.tgz)
{
	printf '%s\n' '# The default installation of setupkey-operator: kubectl apply --server-side -f setupkey-operator.yaml' \
		'apiVersion: v1' 'kind: Namespace' 'metadata:' "  name: $namespace"
	"$helm" template setupkey-operator "${package[0]}" --namespace "$namespace"
} >"$out/setupkey-operator.yaml"
{
	echo '# The CRDs of setupkey-operator: kubectl apply --server-side -f crds.yaml'
	"$helm" template setupkey-operator "${package[0]}" --namespace "$namespace" --show-only templates/crds.yaml
} >"$out/crds.yaml"
echo "$out: $(ls -m "$out")"
