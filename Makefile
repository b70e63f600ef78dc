# `make demo` shows the product on a real control plane; `make test` runs every check.
# Both build what they need on a machine that has Rust, Go and make. `make help` lists the rest.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

GO_TOOLS   := tests/control-plane
TOOLS      := target/tools
KUBE_BINS  := $(addprefix $(TOOLS)/,kube-apiserver kube-controller-manager kubectl)
CARGO_DENY := $(TOOLS)/bin/cargo-deny
CARGO_DENY_VERSION := 0.20.2

# Where a user has setup-envtest's folder, it replaces what we would build.
ifdef KUBEBUILDER_ASSETS
CONTROL_PLANE := $(TOOLS)/kube-controller-manager
else
CONTROL_PLANE := $(KUBE_BINS) $(TOOLS)/etcd
endif

KUBE_VERSION = $(shell cd $(GO_TOOLS) && go list -m -f '{{.Version}}' k8s.io/kubernetes)
VERSION_PKG := k8s.io/component-base/version
GO_BUILD    := CGO_ENABLED=0 go build -trimpath

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

.PHONY: test
test: control-plane $(CARGO_DENY) ## run every check: format, lints, licences, and the tests on a real control plane
	cargo fmt --all --check
	$(CARGO_DENY) check --hide-inclusion-graph bans licenses sources
	cargo clippy --quiet --workspace --all-targets --locked -- -D warnings
	cargo test --workspace --locked

.PHONY: crds
crds: ## write crds/ anew from the code
	cargo run --quiet -- crds > crds/setupkey.dev_setupkeys.yaml

.PHONY: control-plane
control-plane: $(CONTROL_PLANE) ## build etcd, kube-apiserver, kube-controller-manager and kubectl

$(TOOLS)/kube-%: $(GO_TOOLS)/go.mod $(GO_TOOLS)/go.sum
	$(call build-kube,kube-$*)

$(TOOLS)/kubectl: $(GO_TOOLS)/go.mod $(GO_TOOLS)/go.sum
	$(call build-kube,kubectl)

# kubectl refuses to talk about versions unless one is stamped in.
define build-kube
@echo "building $(1) $(KUBE_VERSION) from source: minutes the first time, cached after that"
@mkdir -p $(TOOLS)
@version=$(KUBE_VERSION); IFS=. read -r major minor _ <<<"$${version#v}"; \
	stamp="-X $(VERSION_PKG).gitVersion=$$version -X $(VERSION_PKG).gitMajor=$$major -X $(VERSION_PKG).gitMinor=$$minor"; \
	cd $(GO_TOOLS) && $(GO_BUILD) -ldflags "-s -w $$stamp" -o $(CURDIR)/$(TOOLS)/$(1) k8s.io/kubernetes/cmd/$(1)
@touch $(TOOLS)/$(1)
endef

$(TOOLS)/etcd: $(GO_TOOLS)/etcd/go.mod $(GO_TOOLS)/etcd/go.sum
	@echo "building etcd from source"
	@mkdir -p $(TOOLS)
	@cd $(GO_TOOLS)/etcd && $(GO_BUILD) -ldflags "-s -w" -o $(CURDIR)/$@ go.etcd.io/etcd/server/v3
	@touch $@

$(CARGO_DENY):
	@echo "building cargo-deny $(CARGO_DENY_VERSION)"
	cargo install --quiet --locked --root $(TOOLS) cargo-deny@$(CARGO_DENY_VERSION)

.PHONY: demo
demo: control-plane ## tell the product's story on a real control plane; KEEP=1 leaves it up until Ctrl-C
	@cargo build --workspace --bins --target-dir target
	@echo "starting etcd, kube-apiserver and kube-controller-manager on 127.0.0.1"
	@target/debug/control-plane run --crds crds/setupkey.dev_setupkeys.yaml -- hack/demo.sh
