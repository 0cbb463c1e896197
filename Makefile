# `make test` and `make lint` install what they need: PostgreSQL by apt, buf into .tools.

BUF := $(or $(shell command -v buf),.tools/bin/buf)
# As in apt-get: root needs no sudo.
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

.PHONY: test torture fuzz lint fmt bench postgres

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

lint: $(BUF)
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	$(BUF) lint
	$(BUF) format --diff --exit-code

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
