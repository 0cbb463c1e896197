# `make test` and `make lint` install what they need: PostgreSQL by apt, buf and cargo-deny into .tools (which takes minutes, once).

BUF := $(or $(shell command -v buf),.tools/bin/buf)
DENY := $(or $(shell command -v cargo-deny),.tools/bin/cargo-deny)
# As in apt-get: root needs no sudo.
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

.PHONY: test torture fuzz lint dependencies fmt bench postgres

test: postgres
	cargo test --workspace --locked

# The experiments of tests/faults, long: `make torture`, `make torture SECONDS=300 ARGS=killed`.
torture: SECONDS ?= 1200
torture: PROFILE ?= release
torture: postgres
	BOXOFFICE_TORTURE_SECONDS=$(SECONDS) cargo test --profile $(PROFILE) --locked --test faults -- $(ARGS)

# A million calls of any bytes on each engine; `cargo test` makes ten thousand.
fuzz: postgres
	BOXOFFICE_FUZZ_CASES=1000000 cargo test --release --locked --test api fuzz::

lint: $(BUF) dependencies
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	$(BUF) lint
	$(BUF) format --diff --exit-code

# Licences, duplicates, sources and known advisories. The advisories are on GitHub: where that is out of reach they stay unchecked,
# which is said and fails nothing.
dependencies: $(DENY)
	$(DENY) --workspace --locked check --hide-inclusion-graph bans licenses sources
	@if $(DENY) fetch db; then $(DENY) --workspace --frozen check advisories; \
		else echo "NOT CHECKED: the database of advisories is out of reach" >&2; fi

fmt: $(BUF)
	cargo fmt --all
	$(BUF) format --write

# `make bench ARGS=--quick`, `make bench ARGS=sale`, `make bench ARGS=--help`.
bench: postgres
	cargo build --release --locked -p boxoffice -p boxoffice-bench
	target/release/boxoffice-bench $(ARGS)

# The tests start a throwaway server of their own from the binaries, or use BOXOFFICE_TEST_POSTGRES_URL.
postgres:
	@[ -n "$$BOXOFFICE_TEST_POSTGRES_URL" ] || command -v initdb >/dev/null || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || \
		{ $(SUDO) apt-get update && $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends postgresql; }

.tools/bin/buf:
	python3 -m venv .tools
	.tools/bin/pip install --quiet buf-bin==1.75.0

.tools/bin/cargo-deny:
	cargo install cargo-deny --version 0.20.2 --locked --debug --root .tools

# The programs of clients/ against a server of their own: see clients/SCENARIO.md. `make clients ARGS="python go"`.
.PHONY: clients
clients:
	clients/run $(ARGS)
