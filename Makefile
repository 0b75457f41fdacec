# slmd. `make help` lists what there is to make.

BUILD := $(or $(CARGO_TARGET_DIR),target)
SLMD := $(BUILD)/debug/slmd
DIST := $(BUILD)/dist/slmd
MODEL := smollm2-135m-instruct
BUNDLE := target/models/$(MODEL)/slmd.json
VENV := target/venv/ready
PIN := models/$(MODEL).pin

# Never the caller's: they would lead the build or the tests elsewhere.
unexport SLMD_CONFIG SLMD_SOCKET SLMD_TOKEN

.PHONY: help setup build model venv demo test test-more bench cross dist install clean
.DEFAULT_GOAL := help

help:
	@echo 'make demo          builds slmd, fetches the model, asks one prompt over the socket and one over MQTT'
	@echo 'make test          everything that must pass: units, engine, the daemon with its model and a broker'
	@echo 'make test-more     the same with full counts; takes longer'
	@echo 'make bench         side by side with peers; needs a quiet machine'
	@echo 'make model         fetches the pinned model (98 MB) and imports it into target/models'
	@echo 'make cross         builds for arm64 Linux'
	@echo 'make dist          builds the binary that packages hold'
	@echo 'make install       installs it and its systemd units beneath DESTDIR; configuration is never overwritten'
	@echo 'make setup         installs the Debian packages that all this needs'
	@echo 'make clean         removes everything that was built'

setup:
	@tests/setup

build: setup
	cargo build

model: $(BUNDLE)

# The importer decides what a bundle holds, so a new importer makes a new bundle.
$(BUNDLE): $(PIN) $(wildcard src/catalog/*.rs src/catalog/*/*.rs src/engine/import/*.rs) | build
	@set -e; gguf=$$(models/fetch $(MODEL)); rm -rf $(@D); \
	$(SLMD) model import "$$gguf" --name $(MODEL) --models-dir $(dir $(@D))
	@touch $@

venv: $(VENV)

$(VENV): tests/clients/requirements.txt | setup
	@echo 'installing the Python clients into $(@D)' >&2
	@python3 -m venv --clear $(@D)
	@$(@D)/bin/python -m pip install --quiet --requirement $<
	@touch $@

demo: $(BUNDLE)
	$(SLMD) demo

# The logs of all tests are searched for tokens and prompts once more when all have run.
test: $(BUNDLE) $(VENV)
	@rm -rf target/test-logs
	cargo test
	cargo test --test system secrets

test-more: export SLMD_TEST_MORE = 1
test-more: export PROPTEST_CASES = 20000
test-more: test

bench: $(BUNDLE)
	tests/bench/run

cross:
	cross/build

dist $(DIST):
	cargo build --locked --profile dist

install: $(DIST)
	install -D -m 755 $(DIST) $(DESTDIR)/usr/bin/slmd
	install -d $(DESTDIR)/usr/lib/systemd/system
	install -m 644 systemd/*.service systemd/*.socket $(DESTDIR)/usr/lib/systemd/system/
	install -D -m 644 systemd/slmd.sysusers $(DESTDIR)/usr/lib/sysusers.d/slmd.conf
	install -D -m 644 systemd/slmd.tmpfiles $(DESTDIR)/usr/lib/tmpfiles.d/slmd.conf
	test -e $(DESTDIR)/etc/slmd/slmd.toml || install -D -m 640 systemd/slmd.toml $(DESTDIR)/etc/slmd/slmd.toml

clean:
	cargo clean
