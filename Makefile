# Three commands are all anyone needs: `make demo`, `make test`, `make check`.
CARGO ?= cargo
TOOLS := target/tools
TARGET := $(or $(CARGO_TARGET_DIR),$(CURDIR)/target)
BENCH_BIN := $(TARGET)/release
# What is shipped is what is measured; a quick round takes the build that is there sooner.
BENCH_PROFILE := $(if $(QUICK),release,dist)
DENY_VERSION := 0.20

SOAK ?= 20m

.PHONY: demo test test-sql soak check build bench bench-authz bench-instructions bench-whatif bench-audit bench-ca prerequisites clean

demo: prerequisites ## A whole mesh with traffic on this machine; Ctrl-C ends it.
	$(CARGO) build --release -p reeve-cli -p reeve-bookinfo
	target/release/reeve demo

build: prerequisites ## The binaries that the end-to-end tests run.
	$(CARGO) build --workspace --bins

test: build ## Every test, the end-to-end ones on the real binaries included.
	tests/tools/install.sh
	$(CARGO) test --workspace --no-fail-fast
	$(MAKE) test-sql

test-sql: prerequisites ## SQL over the trail, which the usual build leaves out: DataFusion, seven minutes of one core.
	$(CARGO) test -p reeve-query --features sql

soak: build ## Restarts, drains, rotations and changes under load for SOAK (20m), with flat memory; KILLS=1000 kills sidecars instead.
	$(CARGO) run -p reeve-tests --bin soak -- $(if $(KILLS),--kills $(KILLS),--for $(SOAK))

bench: prerequisites ## The sidecar path beside Envoy, nginx and HAProxy; needs root. QUICK=1 runs one short round.
	tests/bench/install.sh
	$(CARGO) build --profile $(BENCH_PROFILE) -p reeve-cli -p reeve-sidecar
	$(CARGO) build --release -p reeve-tests --bin meshbench
	$(CARGO) build --release -p reeve-proxy --example decide_and_record
	BENCH_OURS=$(TARGET)/$(BENCH_PROFILE)/reeve BENCH_TOOL=$(BENCH_BIN)/meshbench \
	  BENCH_DECIDE=$(BENCH_BIN)/examples/decide_and_record BENCH_ENVOY=$(CURDIR)/target/test-tools/bin/envoy \
	  tests/bench/bench.py run --out target/bench --json target/bench/sidecar.json $(if $(QUICK),--quick)

bench-authz: prerequisites ## Decisions by the number of policies beside plain Cedar and OPA; needs Go. QUICK=1 runs few and short ones.
	$(CARGO) build --release -p reeve-proxy --example authz_cost
	tests/bench/authz.py --tool $(BENCH_BIN)/examples/authz_cost --json target/bench/authz.json $(if $(QUICK),--quick)

bench-instructions: prerequisites ## Instructions per request and handshake against the accepted counts; needs root and valgrind.
	@command -v valgrind >/dev/null || { echo "valgrind is missing: apt-get install -y valgrind"; exit 1; }
	$(CARGO) build --release -p reeve-cli -p reeve-sidecar
	$(CARGO) build --release -p reeve-tests --bin meshbench
	$(CARGO) build --release -p reeve-proxy --example decide_and_record
	BENCH_OURS=$(BENCH_BIN)/reeve BENCH_TOOL=$(BENCH_BIN)/meshbench \
	  BENCH_DECIDE=$(BENCH_BIN)/examples/decide_and_record tests/bench/instructions.py --out target/bench/instructions.json

bench-whatif: prerequisites ## A million recorded decisions replayed against other policies, and policies suggested from them.
	$(CARGO) build --profile $(BENCH_PROFILE) -p reeve-cli
	$(CARGO) build --release -p reeve-analysis --example write_trail
	tests/bench/whatif.py --reeve $(TARGET)/$(BENCH_PROFILE)/reeve --writer $(BENCH_BIN)/examples/write_trail \
	  --trail $(TARGET)/bench-trail --json target/bench/whatif.json

bench-audit: prerequisites ## What the audit trail costs beside Tessera and grep; needs Go. RECORDS=n searches among so many; QUICK=1 is short.
	$(CARGO) build --profile $(BENCH_PROFILE) -p reeve-audit -p reeve-columns --examples
	tests/bench/audit.py --tools $(TARGET)/$(BENCH_PROFILE)/examples --folder $(TARGET)/bench-audit --json target/bench/audit.json \
	  $(if $(RECORDS),--records $(RECORDS)) $(if $(QUICK),--quick)

bench-ca: prerequisites ## Issuing beside raw signatures, and 10,000 agents that renew after an outage. QUICK=1 is short, with 500.
	$(CARGO) build --profile $(BENCH_PROFILE) -p reeve-ca --example issue_speed
	tests/bench/ca.py --tool $(TARGET)/$(BENCH_PROFILE)/examples/issue_speed --json target/bench/ca.json $(if $(QUICK),--quick)

check: build ## What a reviewer would ask for: format, lints, docs, licences.
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	$(CARGO) clippy -p reeve-query --features sql --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --document-private-items
	@test -x $(TOOLS)/bin/cargo-deny || $(CARGO) install --locked --root $(TOOLS) --version '^$(DENY_VERSION)' cargo-deny
	$(TOOLS)/bin/cargo-deny check bans licenses sources

prerequisites:
	@command -v $(CARGO) >/dev/null || { echo "cargo is missing: install Rust 1.95 or later from https://rustup.rs"; exit 1; }
	@for tool in cc cmake python3; do command -v $$tool >/dev/null || { \
	  echo "$$tool is missing: apt-get install -y build-essential cmake python3 python3-venv"; exit 1; }; done

clean:
	$(CARGO) clean
