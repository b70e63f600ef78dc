# `make demo` shows the product on a real control plane; `make test` runs every check.
# Both build what they need on a machine that has Rust, Go and make. `make help` lists the rest. A build shows a line when
# it begins and one when it ends; V=1 shows all of its output.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

TOOLS      := target/tools
KUBE_BINS  := $(addprefix $(TOOLS)/,kube-apiserver kube-controller-manager kubectl)
NODE_BINS  := $(addprefix $(TOOLS)/,kube-scheduler kube-proxy kubelet coredns)
NETBIRD_BINS := $(addprefix $(TOOLS)/,netbird-management netbird-signal netbird-combined netbird)
CARGO_DENY := $(TOOLS)/bin/cargo-deny
CARGO_DENY_VERSION := 0.20.2
CARGO_CYCLONEDX := $(TOOLS)/bin/cargo-cyclonedx
CARGO_CYCLONEDX_VERSION := 0.5.9
CARGO_FUZZ := $(TOOLS)/bin/cargo-fuzz
CARGO_FUZZ_VERSION := 0.13.1

# If KUBEBUILDER_ASSETS is set to setup-envtest's folder, that folder replaces what we would build.
ifdef KUBEBUILDER_ASSETS
CONTROL_PLANE := $(TOOLS)/kube-controller-manager $(TOOLS)/helm
else
CONTROL_PLANE := $(KUBE_BINS) $(TOOLS)/etcd $(TOOLS)/helm
endif

KUBE_VERSION = $(shell cd tools/kubernetes && go list -m -f '{{.Version}}' k8s.io/kubernetes)
VERSION_PKG := k8s.io/component-base/version
GO_BUILD    := env CGO_ENABLED=0 go build -trimpath
BUILD       := $(CURDIR)/hack/quietly.sh

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

# Needs neither tools nor a control plane. `make test` explores the whole model of enrollment, which takes minutes.
.PHONY: check
check: ## the quick loop, less than a minute: format, lints, unit tests, layers, HTTP limits, what is shipped, the model's mutants
	cargo fmt --all --check
	hack/mutants.sh fit
	cargo clippy --quiet --workspace --all-targets --locked -- -D warnings
	cargo test --quiet --locked --lib --bins --test flags --test layers --test serve --test shipping
	cargo test --quiet --locked --test enroll_model every_mutant

.PHONY: test
test: tools ## run every check: format, lints, licences, and the tests on a real control plane
	cargo fmt --all --check
	hack/mutants.sh fit
	$(TOOLS)/actionlint -shellcheck= .github/workflows/*.yml
	if command -v shellcheck >/dev/null; then shellcheck hack/*.sh .ci/run; fi
	$(CARGO_DENY) check --hide-inclusion-graph bans licenses sources
	cargo clippy --quiet --workspace --all-targets --locked -- -D warnings
	cargo clippy --quiet --test e2e --locked -- -D warnings
	@$(BUILD) "control-plane" cargo build --locked --package control-plane
	target/debug/control-plane run --audit --crds crds -- hack/test.sh

# Not part of `make test`: what it shows changes rarely. acto_lite is left out: kine v0.17.5 may answer the creation of an
# object whose name was deleted before with another resourceVersion than the one that it stores.
.PHONY: test-kine
test-kine: control-plane kine ## run the tests on a control plane that stores in SQLite by kine and not in etcd; TEST=words chooses
	@$(BUILD) "control-plane" cargo build --locked --package control-plane
	@$(BUILD) "the tests" cargo test --locked --test integration --no-run
	target/debug/control-plane run --store kine --audit --crds crds -- cargo test --locked --test integration -- --skip acto_lite $(TEST)

.PHONY: e2e
ifdef E2E_KUBECONFIG
e2e: $(TOOLS)/kubectl $(TOOLS)/helm
else
e2e: node netbird
endif
e2e: ## run the chart's pods, and pods that use keys, on a real node (root on Linux); STORY=words chooses
	@hack/e2e.sh

.PHONY: node
node: control-plane $(NODE_BINS) ## install and build what a node needs: containerd, kubelet and more
	@hack/node-packages.sh

.PHONY: netbird
netbird: $(NETBIRD_BINS) ## build NetBird's server and agent, which run as real peers in the tests

.PHONY: kine
kine: $(TOOLS)/kine ## build kine, which stores in SQLite what etcd would store

.PHONY: tools
tools: control-plane netbird $(TOOLS)/helm3 $(CARGO_DENY) $(addprefix $(TOOLS)/,promtool kstatus netbird-client actionlint) ## build everything that the tests need

.PHONY: mutants
mutants: control-plane ## break the code in one place at a time and see the right test fail (an hour)
	@hack/mutants.sh

# Failing inputs go to fuzz/artifacts. All inputs stay in target/fuzz, where the next run continues.
.PHONY: fuzz
fuzz: $(CARGO_FUZZ) ## send nonsense to the parser of enrollment requests for FUZZ_SECONDS (60); needs a nightly compiler
	@mkdir -p target/fuzz/corpus
	PATH="$(CURDIR)/$(TOOLS)/bin:$$PATH" cargo +nightly fuzz run --target-dir target/fuzz/build request \
		target/fuzz/corpus fuzz/seeds/request -- -max_total_time=$(or $(FUZZ_SECONDS),60) -max_len=8192

.PHONY: plugin
plugin: ## build kubectl setupkey for this machine, into target/plugin
	@hack/plugin.sh

.PHONY: image
image: ## build the image without a container engine, as target/image/image.tar
	@hack/image.sh

.PHONY: manifests
manifests: $(TOOLS)/helm ## package the chart and render what a release ships, into target/manifests; IMAGE=registry/name names the image
	@hack/manifests.sh

.PHONY: sbom
sbom: $(CARGO_CYCLONEDX) ## list the crates of the binaries in CycloneDX, as target/manifests/setupkey-operator.cdx.json
	@hack/sbom.sh

.PHONY: crds
crds: $(TOOLS)/helm ## generate crds/ from the code, and deploy/ from the chart
	@$(BUILD) setupkey-operator cargo build --locked --bin setupkey-operator
	cargo run --quiet -- crds --folder crds
	cp crds/*.yaml charts/setupkey-operator/files/crds/
	{ printf '%s\n' '# Generated from the chart by `make crds`. Do not edit.' \
		'apiVersion: v1' 'kind: Namespace' 'metadata:' '  name: setupkey-system'; \
		$(TOOLS)/helm template setupkey-operator charts/setupkey-operator --namespace setupkey-system \
		--show-only templates/rbac.yaml; } > deploy/rbac.yaml
	{ printf '%s\n' '# Generated from the chart by `make crds`. Do not edit.'; \
		$(TOOLS)/helm template setupkey-operator charts/setupkey-operator --namespace setupkey-system \
		--set enrollment.enabled=true --show-only templates/enrollment-rbac.yaml; } > deploy/enrollment-rbac.yaml
	{ printf '%s\n' '# Generated from the chart by `make crds`. Do not edit.'; \
		$(TOOLS)/helm template setupkey-operator charts/setupkey-operator --namespace setupkey-system \
		--set enrollment.enabled=true --show-only templates/guards.yaml; } > deploy/guards.yaml

.PHONY: control-plane
control-plane: $(CONTROL_PLANE) ## build etcd, kube-apiserver, kube-controller-manager, kubectl and helm

$(TOOLS)/kube-%: tools/kubernetes/go.mod tools/kubernetes/go.sum
	$(call build-kube,kube-$*)

$(TOOLS)/kubectl $(TOOLS)/kubelet: tools/kubernetes/go.mod tools/kubernetes/go.sum
	$(call build-kube,$(@F))

# kubectl refuses to report versions unless one is stamped in. The first build takes minutes, later ones use Go's cache.
define build-kube
@mkdir -p $(TOOLS)
@version=$(KUBE_VERSION); IFS=. read -r major minor _ <<<"$${version#v}"; \
	stamp="-X $(VERSION_PKG).gitVersion=$$version -X $(VERSION_PKG).gitMajor=$$major -X $(VERSION_PKG).gitMinor=$$minor"; \
	cd tools/kubernetes && $(BUILD) "$(1) $$version" \
		$(GO_BUILD) -ldflags "-s -w $$stamp" -o $(abspath $(TOOLS))/$(1) k8s.io/kubernetes/cmd/$(1)
@touch $(TOOLS)/$(1)
endef

# Each of these is a separate Go module, in the folder with its name.
$(TOOLS)/etcd: PACKAGE := go.etcd.io/etcd/server/v3
$(TOOLS)/helm: PACKAGE := helm.sh/helm/v4/cmd/helm
$(TOOLS)/helm3: PACKAGE := helm.sh/helm/v3/cmd/helm
$(TOOLS)/kine: PACKAGE := github.com/k3s-io/kine
$(TOOLS)/actionlint: PACKAGE := github.com/rhysd/actionlint/cmd/actionlint
$(TOOLS)/coredns $(TOOLS)/kstatus $(TOOLS)/netbird-client: PACKAGE := .

$(addprefix $(TOOLS)/,etcd kine helm helm3 actionlint coredns kstatus netbird-client): $(TOOLS)/%: tools/%/go.mod tools/%/go.sum
	@mkdir -p $(TOOLS)
	@cd tools/$* && $(BUILD) $* $(GO_BUILD) -ldflags "-s -w" -o $(abspath $@) $(PACKAGE)
	@touch $@

$(addprefix $(TOOLS)/,coredns kstatus netbird-client): $(TOOLS)/%: tools/%/main.go

# NetBird's servers and its agent run as peers of the tests: see tools/netbird/go.mod. All are static, so that they also run
# in an image that holds nothing else. The servers that store keys need cgo, for SQLite.
$(TOOLS)/netbird-management: PACKAGE := management
$(TOOLS)/netbird-signal: PACKAGE := signal
$(TOOLS)/netbird-combined: PACKAGE := combined
$(TOOLS)/netbird: PACKAGE := client
$(TOOLS)/netbird-management $(TOOLS)/netbird-combined: GO_BUILD := env CGO_ENABLED=1 go build -trimpath \
	-tags netgo,osusergo,sqlite_omit_load_extension
$(TOOLS)/netbird-management $(TOOLS)/netbird-combined: STATIC := -linkmode external -extldflags -static

$(NETBIRD_BINS): tools/netbird/go.mod tools/netbird/go.sum
	@$(if $(STATIC),command -v gcc >/dev/null || { echo "gcc is needed to build $(@F): install gcc and a static libc (Debian: gcc, libc6-dev)"; exit 1; })
	@version=$$(cd tools/netbird && go list -m -f '{{.Version}}' github.com/netbirdio/netbird); \
	mkdir -p $(TOOLS); cd tools/netbird; \
	$(BUILD) "$(@F) $$version" $(GO_BUILD) -ldflags "-s -w -X github.com/netbirdio/netbird/version.version=$${version#v} $(STATIC)" \
		-o $(abspath $@) github.com/netbirdio/netbird/$(PACKAGE)
	@touch $@

# A single static program from Debian's package prometheus. The server in that package is not installed.
$(TOOLS)/promtool:
	@mkdir -p $(TOOLS)
	@if command -v promtool >/dev/null; then ln -sf "$$(command -v promtool)" $@; \
	elif command -v apt-get >/dev/null; then cd $(TOOLS) && rm -rf prometheus && mkdir prometheus && cd prometheus && \
		{ apt-get download -q prometheus || { apt-get update -q && apt-get download -q prometheus; }; } && \
		dpkg -x prometheus_*.deb . && cp usr/bin/promtool .. && cd .. && rm -rf prometheus; \
	else echo "promtool is needed to test the alerts; install Prometheus"; exit 1; fi

$(CARGO_DENY):
	@$(BUILD) "cargo-deny $(CARGO_DENY_VERSION)" cargo install --locked --root $(TOOLS) cargo-deny@$(CARGO_DENY_VERSION)

$(CARGO_CYCLONEDX):
	@echo "building cargo-cyclonedx $(CARGO_CYCLONEDX_VERSION)"
	cargo install --quiet --locked --root $(TOOLS) cargo-cyclonedx@$(CARGO_CYCLONEDX_VERSION)

$(CARGO_FUZZ):
	@$(BUILD) "cargo-fuzz $(CARGO_FUZZ_VERSION)" cargo install --locked --root $(TOOLS) cargo-fuzz@$(CARGO_FUZZ_VERSION)

# On a cluster that is there already, the demo builds the operator and nothing else.
.PHONY: demo
ifdef CLUSTER
demo:
else
demo: $(if $(filter 1,$(NODE)),node,control-plane) $(if $(filter 1,$(NETBIRD)),netbird)
endif
demo: ## show the product on a real control plane; CLUSTER=current shows it on your cluster, KEEP=1 leaves it up until Ctrl-C, NODE=1 adds a pod, NETBIRD=1 has real agents join
ifdef CLUSTER
	@if [[ '$(CLUSTER)' != current ]]; then echo "CLUSTER must be current, or absent for a control plane of its own"; exit 1; fi
	@if [[ '$(NODE)' == 1 || '$(NETBIRD)' == 1 ]]; then echo "NODE=1 and NETBIRD=1 need a cluster of their own: leave out CLUSTER"; exit 1; fi
endif
	@$(BUILD) "setupkey-operator" cargo build --locked --workspace --bins --target-dir target
ifdef CLUSTER
	@CLUSTER=$(CLUSTER) hack/demo.sh
else ifeq ($(NETBIRD),1)
	@echo "starting etcd, kube-apiserver and kube-controller-manager on 127.0.0.1, and NetBird in a network of its own"
	@target/debug/control-plane run --netbird --crds crds -- hack/demo-netbird.sh
else ifeq ($(NODE),1)
	@hack/node-image.sh target/image/shell.tar
	@echo "starting etcd, kube-apiserver, kube-controller-manager and a node, in a network of their own"
	@target/debug/control-plane run --node --image target/image/shell.tar --crds crds -- hack/demo.sh
else
	@echo "starting etcd, kube-apiserver and kube-controller-manager on 127.0.0.1"
	@target/debug/control-plane run --crds crds -- hack/demo.sh
endif

.PHONY: bench
bench: control-plane ## measure the controller with 1,000 and 10,000 keys, and a soak; see docs/performance.md (25 minutes)
	cargo bench --locked --bench controller

.PHONY: bench-scale
bench-scale: control-plane ## measure 100,000 settled keys; see docs/performance.md (10 to 16 minutes)
	cargo bench --locked --bench scale

.PHONY: bench-enrollment
bench-enrollment: control-plane ## measure the enrollment service; see docs/performance.md (6 minutes)
	cargo bench --locked --bench enrollment

.PHONY: bench-netbird
bench-netbird: control-plane $(TOOLS)/netbird-combined $(TOOLS)/netbird ## measure keys at NetBird; see docs/performance.md (root on Linux, 15 minutes)
	cargo bench --locked --bench netbird

.PHONY: bench-rest
bench-rest: control-plane ## measure the REST API with 1,000 keys, next to kubectl; see docs/rest-api.md (a minute)
	cargo bench --locked --bench rest
