# make help lists the targets. GO may be set to another go command.
GO      ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
FUZZTIME ?= 20s

.PHONY: build test test-fast e2e fuzz lint demo demo-rabbitmq picture faults bench bench-micro rabbitmq haproxy clients help
.DEFAULT_GOAL := help

build: ## build bin/amqproxy
	$(GO) build -trimpath -ldflags "-X main.version=$(VERSION)" -o bin/amqproxy ./cmd/amqproxy

test: lint clients unit ## install what the tests need, and pass all of them
	$(MAKE) fuzz FUZZTIME=3000x
	$(MAKE) e2e

test-fast: unit ## the tests that need no RabbitMQ and no root, with the race detector
	$(GO) test -race ./test -embedded

unit: # the tests of the packages
	$(GO) test -race $$($(GO) list ./... | grep -v /test)

e2e: rabbitmq clients ## the end to end tests on real RabbitMQ
	$(GO) test -race -count=1 -parallel 4 -timeout 20m ./test/...

fuzz: ## run every fuzz target for FUZZTIME, as 20s or 10000x
	@set -e; for p in $$($(GO) list ./... | grep -v /test); do \
		for f in $$($(GO) test -list '^Fuzz' $$p | grep '^Fuzz' || true); do \
			echo "$$p $$f"; $(GO) test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 100x $$p; \
		done; done

lint: ## formatting and go vet
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); test -z "$$unformatted" || { echo "gofmt would change: $$unformatted"; exit 1; }
	$(GO) vet ./...

demo: ## see a stream over three brokers in memory lose and regain a broker, a proxy and a consumer
	$(GO) run ./cmd/amqproxy demo

picture: ## make docs/demo.svg, the README's picture, from a demo that runs
	$(GO) run ./test/picture -o docs/demo.svg

demo-rabbitmq: rabbitmq build ## see a stream over three RabbitMQ nodes lose and regain one (Debian, as root)
	$(GO) run ./test/demo -proxy bin/amqproxy

faults: rabbitmq build ## break brokers, proxies and shards under load for some hours, beside the plugin; FAULTS has flags (Debian, as root)
	$(GO) build -o bin/faults ./test/faults
	bin/faults -proxy bin/amqproxy -json bin/faults.json -plugin -rounds 20 -kills 300 $(FAULTS)
	bin/faults -proxy bin/amqproxy -json bin/faults-groups.json -groups -rounds 20 -kills 100 $(FAULTS)

bench: rabbitmq haproxy build ## measure amqproxy beside HAProxy, for twenty minutes; BENCH has flags (Debian, as root)
	$(GO) build -o bin/bench ./test/bench
	bin/bench -proxy bin/amqproxy -json bin/bench.json $(BENCH)

bench-micro: ## the Go benchmarks of the packages that every message goes through
	$(GO) test -run '^$$' -bench . -benchmem ./frame ./shard ./intercept

rabbitmq: # installs RabbitMQ if it is missing
	@test/install rabbitmq-server

haproxy: # installs HAProxy if it is missing, to compare with
	@test/install haproxy

clients: rabbitmq haproxy # installs the foreign clients that the tests drive, and what makes networks for them
	@test/install python3-pika nodejs npm iproute2

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16
