# Everyday commands; `make help` lists them. Nothing needs to be installed by hand
# on Debian: tools are Go modules at pinned versions, system packages come by apt.

CONTROLLER_GEN_VERSION := v0.23.0
GOLANGCI_LINT_VERSION  := v2.15.0
GOTESTSUM_VERSION      := v1.13.0

GO      ?= go
VERSION ?= dev
COMMIT  ?= $(shell git rev-parse --short HEAD 2>/dev/null || echo unknown)
DATE    ?= $(shell date -u +%Y-%m-%dT%H:%M:%SZ)
# KEEP=0 makes the demo remove the cluster at its end.
KEEP    ?= 1
# RUN selects end-to-end tests by name, as go test -run does.
RUN     ?= .
# ONLY selects benchmarks, FUZZTIME is the time for one fuzz target.
ONLY     ?=
FUZZTIME ?= 10m
# HISTORIES is how many random histories make model tries, SEED that of the first.
HISTORIES ?= 1000
SEED      ?= 1
# CHURN is how long pods come and go in make churn and make soak.
CHURN     ?= 5m

# One way to build for everything, so that the build cache serves images, tests
# and linters alike; only the race detector needs cgo. To compile without what
# debuggers read takes a tenth less time.
export CGO_ENABLED := 0
export GOFLAGS := $(strip $(GOFLAGS) -trimpath -gcflags=all=-dwarf=false)
# Packages where goroutines share state: tested again with the race detector.
RACE := ./nmi/... ./mic/compute/... ./internal/run/... ./internal/azure/...

CACHE   := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/aad-pod-identity
TOOLS   := $(CACHE)/tools
RESULTS := $(CACHE)/results
STAMP   := github.com/aad-pod-identity/aad-pod-identity/internal/version
LDFLAGS := -s -w -X $(STAMP).Version=$(VERSION) -X $(STAMP).Commit=$(COMMIT) -X $(STAMP).Date=$(DATE)

controller-gen := $(TOOLS)/controller-gen-$(CONTROLLER_GEN_VERSION)
golangci-lint  := $(TOOLS)/golangci-lint-$(GOLANGCI_LINT_VERSION)
gotestsum      := $(TOOLS)/gotestsum-$(GOTESTSUM_VERSION)
localcluster   := $(GO) run ./test/cluster/cmd/localcluster

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

##@ The two commands

.PHONY: demo
demo: prerequisites ## Start a real node, install the chart, tell the whole story; KEEP=0 removes it afterwards
	@$(GO) run ./test/demo --keep=$(if $(filter 0 false no,$(KEEP)),false,true)

.PHONY: test
test: all-binaries unit e2e ## Unit tests, tests against a real API server, end-to-end tests on a real node
	@test/counts.sh $(RESULTS)/unit.json $(RESULTS)/e2e.json

# Kubernetes is the longest build by far. While its modules are still on their way, the
# processors build what needs fewer: the standard library, cert-manager, what our tests
# are made of. They do that one after the other, since builds at the same time would
# compile twice what they share; much of it is Kubernetes's, too. The compiler collects
# garbage less often.
.PHONY: all-binaries
all-binaries: export GOGC := 400
all-binaries:
	@for module in kubernetes certmanager; do (cd test/cluster/binaries/$$module && $(GO) mod download) & done; \
	test/prerequisites.sh & prerequisites=$$!; \
	$(if $(wildcard $(CACHE)/bin/*/kubelet),,$(meanwhile) &&) \
	wait $$prerequisites && $(localcluster) all-binaries >/dev/null; status=$$?; wait; exit $$status

meanwhile = $(GO) build std && $(localcluster) base-binaries && \
	$(MAKE) --no-print-directory $(gotestsum) && $(compile)
# What tests and programs consist of is compiled, and nothing linked.
compile = $(GO) list -deps -test -f '{{if and .GoFiles (not (or .Standard .ForTest (eq .Name "main")))}}{{.ImportPath}}{{end}}' ./... | xargs $(GO) build

##@ Development

.PHONY: build
build: ## Build the three binaries into bin/
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/ ./webhook ./mic ./nmi

# What takes longest begins first, so that no processor is idle at the end; three at
# once, since each also waits. Tests are not vetted: lint does that.
LONGEST := ./test/chart ./mic/controller ./webhook ./test/attack ./test/model ./nmi

.PHONY: unit
# client-go ends a test in which a cached object was changed: readers share them.
unit: export KUBE_CACHE_MUTATION_DETECTOR := true
unit: prerequisites $(gotestsum) ## Unit tests and tests against a real API server
	@mkdir -p $(RESULTS)
	@assets=$$($(localcluster) binaries) && \
	echo "unit: all packages but test/e2e; API server from $$assets" && \
	KUBEBUILDER_ASSETS=$$assets PATH="$$assets:$$PATH" $(gotestsum) --format pkgname --jsonfile $(RESULTS)/unit.json -- \
		-vet=off -timeout 20m -p 3 $(LONGEST) $$($(GO) list ./... | grep -v /test/e2e)

.PHONY: race
race: prerequisites $(gotestsum) ## The concurrent packages with the race detector
	@mkdir -p $(RESULTS)
	@echo "race: $(RACE)"
	@CGO_ENABLED=1 $(gotestsum) --format pkgname --jsonfile $(RESULTS)/race.json -- -race -vet=off -timeout 20m $(RACE)

.PHONY: e2e
e2e: prerequisites $(gotestsum) ## End-to-end tests on the local cluster; RUN=TestName selects
	@mkdir -p $(RESULTS)
	@$(gotestsum) --format testname --jsonfile $(RESULTS)/e2e.json -- -count=1 -vet=off -parallel 6 -timeout 40m -run '$(RUN)' ./test/e2e/...

# What reads SOAK, through test/soak.
SOAKS := TestAppliesDuringRotationAndRestart|TestClusterRestart|TestSelfSignedCertificates|TestUninstall|TestProvidedCertificates|TestRollingUpdateOfNMI|TestResourceIDCase|TestManyPods|TestFrozenLeader|TestOutage|TestManagedMode|TestSelfTestAndStartupTaint|TestRealClients|TestGuideRunAPodToValidate|TestChurn

.PHONY: soak
soak: ## Tests that the everyday runs shorten, at full size
	@SOAK=1 $(MAKE) e2e RUN='$(SOAKS)'
	@CGO_ENABLED=1 SOAK=1 $(GO) test -race -vet=off -count=1 -timeout 2h -run TestNeverTheWrongToken ./nmi/server
	@$(MAKE) churn

.PHONY: churn
churn: prerequisites ## Pods come and go on one node for CHURN (5m), and must get their own tokens only
	@mkdir -p $(RESULTS)
	@assets=$$($(localcluster) binaries) && $(GO) run ./test/bench --assets="$$assets" --only=nmi-churn --churn=$(CHURN) --out=$(RESULTS)/churn.json

.PHONY: model
model: prerequisites ## MIC beside a model of it: HISTORIES (1000) random histories from SEED (1), and killed at each of its calls
	@assets=$$($(localcluster) binaries) && KUBEBUILDER_ASSETS=$$assets PATH="$$assets:$$PATH" \
		$(GO) test ./test/model -count=1 -v -timeout 6h -args -histories=$(HISTORIES) -seed=$(SEED) -every=1

.PHONY: bench
bench: prerequisites ## The figures of the design beside their baselines; ONLY=admission, ONLY=mic, ONLY=nmi or ONLY=nmi-wake selects
	@assets=$$($(localcluster) binaries) && $(GO) run ./test/bench --assets="$$assets" --only='$(ONLY)'

.PHONY: fuzz
fuzz: ## Fuzz what parses users' input, FUZZTIME (10m) for each target
	@test/fuzz.sh $(FUZZTIME)

.PHONY: generate
generate: $(controller-gen) ## Regenerate deepcopy functions and CRDs from api/v1
	$(controller-gen) object crd:crdVersions=v1 paths=./api/... output:crd:dir=charts/aad-pod-identity/crds
	$(GO) run ./charts/copies charts/aad-pod-identity/crds/aadpodidentity.k8s.io_azureassignedidentities.yaml

.PHONY: verify
verify: generate ## Fail when generated files are stale
	@changed=$$(git status --porcelain -- api charts/aad-pod-identity/crds); \
	if [ -n "$$changed" ]; then \
		echo "verify: generated files are stale; run 'make generate' and commit:"; echo "$$changed"; \
		git --no-pager diff -- api charts/aad-pod-identity/crds; exit 1; \
	fi; echo "verify: generated files are up to date"

.PHONY: lint
lint: $(golangci-lint) ## golangci-lint and helm lint
	$(golangci-lint) run
	@assets=$$($(localcluster) binaries) && "$$assets/helm" lint charts/aad-pod-identity

##@ Local cluster

.PHONY: cluster-up
cluster-up: prerequisites ## Start the local cluster
	@$(localcluster) up

.PHONY: cluster-down demo-down
cluster-down demo-down: ## Remove the local cluster and everything it made on this machine
	@$(localcluster) down && $(localcluster) leftovers

.PHONY: cluster-status
cluster-status: ## Say what runs
	@$(localcluster) status

##@ Tools

.PHONY: prerequisites
prerequisites:
	@test/prerequisites.sh

$(controller-gen):
	@$(call install,sigs.k8s.io/controller-tools/cmd/controller-gen@$(CONTROLLER_GEN_VERSION))

$(golangci-lint):
	@$(call install,github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_LINT_VERSION))

$(gotestsum):
	@$(call install,gotest.tools/gotestsum@$(GOTESTSUM_VERSION))

# install builds a tool in a folder of its own, so that an interrupted build
# leaves nothing that looks finished.
define install
echo "building $(1)" && rm -rf $@.new && GOBIN=$@.new $(GO) install $(1) && mv $@.new/* $@ && rm -rf $@.new
endef

.PHONY: help
help: ## Show this text
	@awk 'BEGIN {FS = ":.*##"} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z0-9 -]+:.*##/ {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
