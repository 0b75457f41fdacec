# slmd. `make help` lists what there is to make.

BUILD := $(or $(CARGO_TARGET_DIR),target)
SLMD := $(BUILD)/debug/slmd
DIST := $(BUILD)/dist/slmd
# What packages leave out: the demo and the door for tests.
PACKAGE := --no-default-features --features systemd
# What `make install` lays down; another one is taken as it is.
BIN := $(DIST)
MODEL := smollm2-135m-instruct
BUNDLE := target/models/$(MODEL)/slmd.json
VENV := target/venv/ready
NODE := target/node/ready
HIVEMQ := target/hivemq/ready
PIN := models/$(MODEL).pin

# By a name of its own, so that `make -n test` prints and runs nothing.
AGAIN := $(MAKE)
# Never the caller's: they would lead the build or the tests elsewhere.
unexport SLMD_CONFIG SLMD_SOCKET SLMD_TOKEN

.PHONY: help setup setup-demo setup-tests build model keycloak prometheus collector litewitness venv node hivemq fuzz loom sanitize demo demo-keycloak bench cross dist install clean
.PHONY: test test-more test-host test-cross test-no-cross test-logs
# In the order given.
.NOTPARALLEL:
.DEFAULT_GOAL := help

help:
	@echo 'make demo          builds slmd, fetches the model, asks one prompt over the socket and one over MQTT'
	@echo 'make demo-keycloak the same with a real Keycloak, a broker and Prometheus, which it fetches and starts: who'
	@echo '                   may what, a revoked device, Keycloak hanging, audit and metrics; KEEP=1 keeps it running'
	@echo 'make test          everything that must pass: units, engine, the daemon with its model, a broker and Keycloak'
	@echo '                   (and the daemon on an emulated arm64 CPU, where Debian packages may be installed)'
	@echo 'make test-more     the same with full counts; takes longer'
	@echo 'make fuzz          fuzzes token, key set, claims, deny file, DPoP proof, signed metadata, report, note, proof of'
	@echo '                   a log and its policy, queries of the log for'
	@echo '                   150 s in all (FUZZ_SECONDS for each), after a first build of two minutes'
	@echo 'make loom          tries the thread pool of the engine under loom: each order of what its threads do'
	@echo 'make sanitize      runs the kernels under AddressSanitizer and the pool under ThreadSanitizer'
	@echo 'make bench         side by side with peers; needs a quiet machine'
	@echo 'make model         fetches the pinned model (98 MB) and imports it into target/models'
	@echo 'make keycloak      fetches the pinned Keycloak (170 MB) and builds it for the tests'
	@echo 'make cross         builds for arm64 Linux'
	@echo 'make test-cross    builds for arm64 and runs the tests of the kernels and the daemon on emulated CPUs'
	@echo 'make dist          builds the binary that packages hold, which has no demo'
	@echo 'make install       as root, installs it and its systemd units on this machine; with DESTDIR=FOLDER, for'
	@echo '                   packages, lays them down beneath it. The configuration is never overwritten'
	@echo 'make setup         installs the Debian packages that build and demo need; setup-demo those of demo-keycloak,'
	@echo '                   setup-tests those of the tests too'
	@echo 'make clean         removes everything that was built'

setup:
	@tests/setup

setup-tests:
	@tests/setup tests

build: setup
	cargo build

model: $(BUNDLE)

# The importer decides what a bundle holds, so a new importer makes a new bundle.
$(BUNDLE): $(PIN) $(wildcard src/catalog/*.rs src/engine/import*.rs src/engine/tokenizer/*.rs) | build
	@set -e; gguf=$$(models/fetch $(MODEL)); rm -rf $(@D); \
	$(SLMD) model import "$$gguf" --name $(MODEL) --models-dir $(dir $(@D)) \
	  $$(sed -n 's/^import //p' $(PIN))
	@touch $@

# Cheap where it is there already; the tests ask for it in the same way.
keycloak: | setup-tests
	@tests/keycloak/fetch >/dev/null

prometheus: | setup-tests
	@tests/prometheus >/dev/null

collector: | setup-tests
	@tests/collector/build >/dev/null

# A minute the first time.
litewitness: | setup-tests
	@tests/litewitness/fetch >/dev/null

venv: $(VENV)

$(VENV): tests/clients/requirements.txt | setup
	@echo 'installing the Python clients into $(@D)' >&2
	@python3 -m venv --clear $(@D)
	@$(@D)/bin/python -m pip install --quiet --requirement $<
	@touch $@

node: $(NODE)

$(NODE): tests/clients/package.json tests/clients/package-lock.json | setup-tests
	@echo 'installing the JavaScript peers into $(@D)' >&2
	@mkdir -p $(@D)
	@cp $^ $(@D)
	@cd $(@D) && npm ci --silent --ignore-scripts --no-audit --no-fund
	@touch $@

# A second kind of broker, for `test-more`.
hivemq: $(HIVEMQ)

$(HIVEMQ): tests/hivemq/pom.xml | setup-tests
	@command -v javac >/dev/null || { echo 'HiveMQ needs a JDK: apt-get install default-jdk-headless' >&2; exit 1; }
	@echo 'fetching HiveMQ Community Edition (100 MB) into $(@D)' >&2
	@mkdir -p $(@D)
	@mvn -B -q -Dstyle.color=never -f $< dependency:copy-dependencies -DoutputDirectory=$(abspath $(@D))/lib
	@touch $@

# FUZZ_SECONDS for each target, or 150 s for all; what one run finds the next begins with.
fuzz: setup-tests
	tests/fuzz/run

# The pool's models under loom.
loom:
	cargo test --quiet --locked --manifest-path tests/loom/Cargo.toml --target-dir $(BUILD)/loom

sanitize:
	tests/sanitize/run

demo: $(BUNDLE)
	$(SLMD) demo

setup-demo:
	@tests/setup keycloak

# KEEP=1 keeps it running.
demo-keycloak: setup-demo $(BUNDLE)
	@KEEP=$(KEEP) deploy/demo/run $(SLMD) $(BUNDLE:/slmd.json=)

# Asks first and tests then: nobody wants to be asked in the middle.
test: $(BUNDLE) $(VENV) $(NODE) keycloak prometheus collector litewitness fuzz loom
	@rm -rf target/test-logs
	@cross/build --prepare; case $$? in 0) arm=test-cross ;; 3) arm=test-no-cross ;; *) exit 1 ;; esac; \
	$(AGAIN) --no-print-directory test-host $$arm test-logs

test-host:
	python3 -B -m unittest discover --quiet --start-directory tests/bench
	cargo test

test-cross: $(BUNDLE)
	cross/build --kernels
	cross/build dev
	cargo test --test cross

test-no-cross:
	@echo 'test: the arm64 test is LEFT OUT, because its toolchain may not be installed;' >&2
	@echo 'test: `SLMD_CROSS_APT=yes make test-cross` installs it and runs the test' >&2

# The logs of all daemons are searched for tokens and prompts once more when all have run.
test-logs:
	cargo test --test system secrets

test-more: export SLMD_TEST_MORE = 1
test-more: export PROPTEST_CASES = 20000
test-more: export FUZZ_SECONDS ?= 600
test-more: $(HIVEMQ) sanitize test

bench: $(BUNDLE) $(VENV) $(NODE) collector
	tests/bench/run

cross:
	cross/build

dist $(DIST):
	cargo build --locked --profile dist $(PACKAGE)

install: $(BIN)
	install -D -m 755 $(BIN) $(DESTDIR)/usr/bin/slmd
	install -d $(DESTDIR)/usr/lib/systemd/system
	install -m 644 systemd/*.service systemd/*.socket systemd/*.timer $(DESTDIR)/usr/lib/systemd/system/
	install -D -m 644 systemd/slmd.sysusers $(DESTDIR)/usr/lib/sysusers.d/slmd.conf
	install -D -m 644 systemd/slmd.tmpfiles $(DESTDIR)/usr/lib/tmpfiles.d/slmd.conf
# The program prints them, so that they are of its commands; where it is for another CPU, one for this.
	@set -e; umask 022; share=$(DESTDIR)/usr/share; prints=$(BIN); \
	"$$prints" --version >/dev/null 2>&1 || { prints=$(DIST); $(AGAIN) --no-print-directory $$prints; }; \
	echo "$$prints prints the manual and completions into $$share"; \
	rm -f $$share/man/man1/slmd.1 $$share/man/man1/slmd-*.1; "$$prints" man $$share/man; \
	for shell in bash:bash-completion/completions/slmd fish:fish/vendor_completions.d/slmd.fish \
	  zsh:zsh/vendor-completions/_slmd; do \
	  file=$$share/$${shell#*:}; mkdir -p "$${file%/*}"; "$$prints" completions "$${shell%%:*}" >"$$file"; \
	done
	test -e $(DESTDIR)/etc/slmd/slmd.toml || install -D -m 640 systemd/slmd.toml $(DESTDIR)/etc/slmd/slmd.toml
# On this machine, what a package's scripts do on theirs: the user and group, their folders, the
# configuration's group.
ifeq ($(filter-out /,$(DESTDIR)),)
	@if command -v systemd-sysusers >/dev/null; then \
	  systemd-sysusers slmd.conf && systemd-tmpfiles --create slmd.conf; \
	else echo 'install: no systemd: make the user and group slmd, and what systemd/slmd.tmpfiles names' >&2; fi
	@if [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
endif

clean:
	cargo clean
	rm -rf target
