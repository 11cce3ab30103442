# Idempotency Gateway. `make` lists what can be made.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

TARGET := $(or $(CARGO_TARGET_DIR),target)

PROGRAMS := --package idempotency-service --package idempotency-demo-upstream \
	--package idempotency-stack --bins

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | \
		awk -F ':.*## ' '{ printf "  make %-11s %s\n", $$1, $$2 }'

.PHONY: prepare
prepare:
	@scripts/prepare.sh

.PHONY: run
run: prepare ## Build all, start the service, a demo upstream and a real Envoy; STORE=redis, STORE=postgres; Ctrl-C stops it
	@case "$(STORE)" in \
		redis) scripts/need-redis.sh ;; \
		postgres) scripts/get-postgres.sh >/dev/null ;; \
	esac
	@cargo build --release $(PROGRAMS)
	@WASM_CHECK=$(TARGET)/release/wasm-check scripts/build-wasm.sh
	@envoy="$$(scripts/get-envoy.sh)"; \
		ENVOY_BIN="$$envoy" STORE="$(STORE)" STOP_WITH_PARENT=1 exec $(TARGET)/release/gateway-demo

.PHONY: orders
orders: prepare ## The example of the library: PostgreSQL, a Kafka broker, a service and a consumer; an order sent twice is one; ARGS=--stay
	@scripts/get-broker.sh >/dev/null
	@cargo build --package orders --bins
	@POSTGRES_BIN="$$(scripts/get-postgres.sh)" exec $(TARGET)/debug/orders-demo $(ARGS)

.PHONY: bench-kafka
bench-kafka: prepare ## Consumers of Kafka with the library's guard beside bare ones, about 4 minutes; ARGS="--messages 10000 --rounds 5"
	@scripts/need-redis.sh
	@scripts/get-broker.sh >/dev/null
	@cargo build --release --package idempotency-kafka-rig --bin kafka-bench
	@POSTGRES_BIN="$$(scripts/get-postgres.sh)" $(TARGET)/release/kafka-bench $(ARGS)

.PHONY: build
build: prepare ## Build the tests and the programs that they start
	@. scripts/need.sh; phase "build"
	@# With the tests, although they are not asked for here: without them cargo chooses other features of the
	@# dependencies, and builds those twice.
	@cargo build --workspace --bins --tests --examples

.PHONY: wasm
wasm: prepare ## Build the filter, target/idempotency.wasm
	@. scripts/need.sh; phase "the filter"
	@scripts/build-wasm.sh

.PHONY: native
native: prepare ## Build the filter as a native module for Envoy 1.39.1 or later, target/libidempotency_envoy.so
	@cargo build --release --package idempotency-envoy-module
	@cp $(TARGET)/release/libidempotency_envoy.so $(TARGET)/libidempotency_envoy.so

.PHONY: test-native
test-native: build native ## The end-to-end tests with the native module in the newest Envoy; ARGS="replay races"
	@ENVOY_BIN="$$(scripts/get-envoy.sh newest)" POSTGRES_BIN="$$(scripts/get-postgres.sh)" GATEWAY=native \
		cargo test --package idempotency-e2e --test gateway -- $(ARGS)

.PHONY: test
test: build wasm ## All tests, the end-to-end ones on the newest and the oldest supported Envoy
	@scripts/test.sh

.PHONY: test-kong
test-kong: prepare ## The end-to-end tests in a complete Kong: KONG=/path/to/prefix; in its nginx alone: KONG_NGINX=/path/to/nginx KONG_LUALIB=/path/to/lualib; BODY=lua: with the Lua plugin
	@KONG="$(KONG)" BODY="$(BODY)" KONG_NGINX="$(KONG_NGINX)" KONG_LUALIB="$(KONG_LUALIB)" scripts/test-kong.sh $(ARGS)

.PHONY: ui-shots
ui-shots: prepare ## The pictures of the operators' page in docs/ui, made by the test that drives it in Chromium
	@scripts/get-clients.sh >/dev/null
	@mkdir -p docs/ui
	@CI=true UI_SHOTS="$$PWD/docs/ui" cargo test --package idempotency-service --test it ui_browser

.PHONY: bench
bench: prepare wasm ## The gateway beside bare Envoy, ext_authz and Lua, on every store, about 15 minutes
	@scripts/bench.sh $(ARGS)

.PHONY: bench-quick
bench-quick: prepare wasm ## The same in less than two minutes
	@scripts/bench.sh --quick $(ARGS)

.PHONY: bench-micro
bench-micro: prepare ## Single pieces of the hot path: fingerprint, key, frames, state machine
	@cargo bench --package idempotency-bench --bench micro -- $(ARGS)

.PHONY: bench-work
bench-work: prepare ## Hostcalls and instructions of the filter per request, against bench/work.json; ARGS=--update
	@command -v valgrind >/dev/null || { . scripts/need.sh; need_packages "valgrind, which counts instructions" valgrind; }
	@cargo run --release --package idempotency-bench --bin filter-work -- $(or $(ARGS),--check) bench/work.json

.PHONY: bench-kong
bench-kong: prepare wasm ## What the filter costs in a complete Kong, KONG=, or in its nginx alone, KONG_NGINX= KONG_LUALIB=; ARGS=--help
	@scripts/need-bench.sh
	@cargo build --release --package idempotency-bench --package idempotency-service \
		--package idempotency-demo-upstream --bins
	@GATEWAY=$(if $(KONG),kong,nginx) KONG="$(KONG)" KONG_NGINX="$(KONG_NGINX)" KONG_LUALIB="$(KONG_LUALIB)" \
		$(TARGET)/release/kong-bench $(ARGS)

.PHONY: endurance
endurance: build wasm ## 100,000 executions at a steady rate, and what the workers hold: KONG= BODY= as for test-kong; EXECUTIONS= RATE= WORKERS=
	@GATEWAY=$(if $(KONG),kong$(if $(filter lua,$(BODY)),-lua),envoy) KONG="$(KONG)" EXECUTIONS="$(EXECUTIONS)" RATE="$(RATE)" WORKERS="$(WORKERS)" \
		cargo run --quiet --package idempotency-e2e --example endurance

.PHONY: bench-layer
bench-layer: ## The library's layer around an axum handler, beside the bare handler and a peer, about 4 minutes; ARGS=--help
	@cargo run --release --manifest-path bench/layer/Cargo.toml --target-dir $(TARGET)/bench-layer -- $(ARGS)

.PHONY: bench-store
bench-store: prepare ## The service and the stores beside redis-benchmark and pgbench, about 15 minutes; ARGS=--quick
	@scripts/need-bench.sh
	@cargo build --release --package idempotency-bench --package idempotency-service --bins
	@POSTGRES_BIN="$$(scripts/get-postgres.sh)" $(TARGET)/release/store-bench $(ARGS)

.PHONY: bench-transaction
bench-transaction: prepare ## The library's transaction beside the same one without a record, on PostgreSQL, about 4 minutes; ARGS=--help
	@postgres="$$(scripts/get-postgres.sh)"; \
		cargo build --release --package idempotency-bench --bin transaction-bench && \
		POSTGRES_BIN="$$postgres" $(TARGET)/release/transaction-bench $(ARGS)

.PHONY: check
check: prepare $(if $(filter native,$(HOST)),native,wasm) ## Clients, kills, pauses and cuts: nothing runs twice? DURATION=60 STORE=embedded|redis|postgres SEED= ENCRYPT=1 HOST=native
	@case "$(STORE)" in \
		redis) scripts/need-redis.sh ;; \
		postgres) scripts/get-postgres.sh >/dev/null ;; \
	esac
	@cargo build --package idempotency-checker --package idempotency-service \
		--package idempotency-demo-upstream --bins
	@envoy="$$(scripts/get-envoy.sh)"; \
		GATEWAY="$(HOST)" ENVOY_BIN="$$envoy" exec $(TARGET)/debug/gateway-check --dir $(TARGET)/check \
		$(if $(DURATION),--duration $(DURATION)) $(if $(STORE),--store $(STORE)) \
		$(if $(SEED),--seed $(SEED)) $(if $(ENCRYPT),--encrypt) $(ARGS)

.PHONY: dist
dist: prepare ## What a release consists of, in target/dist: filter, service, images, bills of materials, checksums
	@scripts/dist.sh

.PHONY: try-dist
try-dist: prepare ## As root: what `make dist` made, in a clean Debian without Rust, from nothing to a replay
	@scripts/try-dist.sh

.PHONY: fuzz
fuzz: prepare ## Fuzz targets with libFuzzer, one after the other: DURATION=60 TARGETS="key path" JOBS=1
	@DURATION="$(DURATION)" TARGETS="$(TARGETS)" JOBS="$(JOBS)" scripts/fuzz.sh

.PHONY: lint
lint: prepare ## Formatting, clippy, licences
	@scripts/lint.sh

.PHONY: clean
clean: ## Remove everything that was built or installed here
	@cargo clean
