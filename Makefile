# duplexd. `make help` lists the targets. They need make, a shell and Python 3.11 or newer; the rest
# is installed by them.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VERSION = $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' duplexd/__init__.py)
VENV := .venv
BIN := $(VENV)/bin
# The first interpreter that is new enough; `make setup PYTHON=...` takes another one.
PYTHON := $(shell for p in python3.11 python3 python3.12 python3.13 python3.14 \
	/usr/bin/python3; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && \
	command -v "$$p" && break; done)
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
WORKERS := 3
# A file stays in one process, for what its tests share; tests/conftest.py orders the files.
SPREAD = -n $(WORKERS) --dist loadfile --no-loadscope-reorder
ARGS :=

# What the tests use beside Python: real NBD clients and servers, a virtual machine, and what makes
# a file system for it; Prometheus and a browser; what makes, checks and shows man pages, shells that
# complete, and what the recipes of docs/recipes are about. gcc and the next two compile a client
# that Python's index has only as source.
PACKAGES := mount nbdkit nbd-client nbd-server qemu-utils qemu-system-x86 qemu-system-common \
	libnbd-bin python3-libnbd fio strace fuse3 busybox-static cpio e2fsprogs systemd passwd login \
	util-linux procps kmod iproute2 curl openssl dmsetup gcc libc6-dev python3-dev prometheus \
	chromium man-db mandoc pandoc zsh fish borgbackup cron postgresql
# What only long tests use: other recipes, the package in a root of its own, and devices of a virtual
# machine that systemd waits for
LONG_PACKAGES := restic mariadb-server libvirt-clients libvirt-daemon libvirt-daemon-driver-qemu \
	debootstrap lintian systemd-container udev
# While this is there, an installation starts no service: of nbd-server and prometheus the tests want
# the programs only.
NO_SERVICES := /usr/sbin/policy-rc.d
# Debian's Python comes without what makes a virtual environment.
VENV_PACKAGES := python3-venv

.PHONY: help
help: ## this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' \
		$(MAKEFILE_LIST)

# --------------------------------------------------------------------------------------- setting up

$(BIN)/python:
	@[ -n "$(PYTHON)" ] || { \
		echo "duplexd needs Python 3.11 or newer; install it," \
			"or give its path: make setup PYTHON=/path/to/python" >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || \
		$(MAKE) --no-print-directory apt-install WANTED="$(VENV_PACKAGES)"
	@rm -rf $(VENV)
	"$(PYTHON)" -m venv $(VENV)

# Two stamps: what runs duplexd, and what works on it. The first is all that demo and run need.
$(VENV)/.runtime: pyproject.toml duplexd/__init__.py | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.dev: pyproject.toml duplexd/__init__.py | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@ $(VENV)/.runtime

.PHONY: setup apt apt-install
setup: $(VENV)/.dev ## makes .venv with the project and its tools, once

apt: ## installs the Debian packages that the tests use, if any is missing
	@$(MAKE) --no-print-directory apt-install WANTED="$(PACKAGES)"
	@apt-cache policy linux-image-cloud-amd64 2>/dev/null | grep -q 'Candidate: [0-9]' || \
		$(SUDO) apt-get -qq update

apt-install:
	@missing=; for p in $(WANTED); do \
		dpkg-query -W -f '$${db:Status-Status}' "$$p" 2>/dev/null | grep -qx installed || \
			missing="$$missing $$p"; done; \
	[ -z "$$missing" ] && exit 0; \
	command -v apt-get >/dev/null || { \
		echo "not a Debian system: install what these packages contain:$$missing" >&2; exit 1; }; \
	echo "installing:$$missing"; \
	[ -e $(NO_SERVICES) ] || { \
		trap '$(SUDO) rm -f $(NO_SERVICES)' EXIT; \
		printf '#!/bin/sh\nexit 101\n' | $(SUDO) install -m 755 /dev/stdin $(NO_SERVICES); }; \
	$(SUDO) apt-get -qq update; \
	$(SUDO) env DEBIAN_FRONTEND=noninteractive \
		apt-get -qq install -y --no-install-recommends $$missing >/dev/null

# ------------------------------------------------------------------------------------------ running

.PHONY: demo run
demo: $(VENV)/.runtime ## four volumes written to, suspended ten times and checked: under a minute
	@$(BIN)/duplexd demo $(ARGS)

run: $(VENV)/.runtime ## a daemon in the foreground with configs/duplexd.toml, data under ./var
	@mkdir -p var/a var/b
	@[ ! -t 2 ] || echo "In another terminal: $(BIN)/duplexctl --socket var/control.sock status;" \
		"README.md continues from there. Ctrl-C stops the daemon." >&2
	@exec $(BIN)/duplexd run --config configs/duplexd.toml $(ARGS)

# ----------------------------------------------------------------------------------------- checking

.PHONY: test test-long check format bench bench-quick neighbours cover fuzz soak clean
$(VENV)/.interop: $(VENV)/.dev | apt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[interop]'
	@touch $@

test: $(VENV)/.interop apt ## the tests, without the long sweeps
	$(BIN)/python -m pytest -q $(SPREAD) -m "not long" $(ARGS)

test-long: $(VENV)/.interop apt ## the long sweeps
	@$(MAKE) --no-print-directory apt-install WANTED="$(DEB_PACKAGES) $(LONG_PACKAGES)"
	$(BIN)/python -m pytest -q $(SPREAD) --timeout 3600 -m long $(ARGS)

check: $(VENV)/.dev ## format, lint, types, import rules: what CI runs
	$(BIN)/ruff format --check --diff .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: $(VENV)/.dev ## puts the code into shape
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.dev apt ## duplexd beside nbdkit and qemu, 12 minutes; docs/performance.md
	$(BIN)/python -m tests.bench $(ARGS)

REV := main
bench-quick: $(VENV)/.dev apt ## this tree beside revision REV: rates and CPU time, 3 minutes
	$(BIN)/python -m tests.bench.quick $(REV) $(ARGS)

neighbours: $(VENV)/.dev apt ## a client beside floods of another one: waits, 4 minutes
	$(BIN)/python -m tests.bench.neighbours $(ARGS)

$(VENV)/.fuzz: $(VENV)/.dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[fuzz]'
	@touch $@

fuzz: $(VENV)/.fuzz ## searches for bytes that break the NBD parsers, without end
	$(BIN)/python -m tests.fuzz.guided $(ARGS)

soak: $(VENV)/.dev ## a thousand idle and 64 busy NBD connections for ten minutes
	$(BIN)/python -m tests.bench.soak $(ARGS)

cover: $(VENV)/.interop apt ## which lines and branches the tests reach
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -q -m "not long and not vm" $(ARGS)
	$(BIN)/coverage combine -q
	$(BIN)/coverage report

# ---------------------------------------------------------------------------------------- packaging

PINS := configs/requirements
PREFIX := /usr/local
DESTDIR :=
# Units go to systemd/system below it; Debian 12 wants them in /lib.
SYSTEMD := $(PREFIX)/lib
LIBDIR := $(PREFIX)/lib/duplexd
# pip of a virtual environment of its own builds the wheel and fills that of the installation, which
# then has no pip. What is downloaded has to have one of the hashes of the pins.
TOOLS := build/tools
PIP := $(TOOLS)/bin/python -m pip --disable-pip-version-check --no-input
INTO := $(PIP) --python $(DESTDIR)$(LIBDIR)/bin/python install --quiet --no-compile

.PHONY: man pins wheel nbd-wheel dist install install-tree deb
man: $(VENV)/.dev apt ## writes the man pages and completions anew, from --help and docs/
	$(BIN)/python -m tests.packaging

# Without the addresses of an index: that is up to the machine that installs.
COMPILE = $(BIN)/python -m piptools compile --quiet --generate-hashes --allow-unsafe --strip-extras \
	--no-header --no-emit-index-url --no-emit-trusted-host --no-emit-find-links pyproject.toml
pins: $(VENV)/.dev ## takes the newest libraries that pyproject.toml allows into configs/requirements
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[pins]'
	$(COMPILE) --upgrade --output-file $(PINS)/runtime.txt
	$(COMPILE) --upgrade --output-file $(PINS)/build.txt --build-deps-for wheel --only-build-deps

$(TOOLS)/.made: $(PINS)/build.txt
	rm -rf $(TOOLS)
	"$(PYTHON)" -m venv $(TOOLS)
	$(PIP) install --quiet --require-hashes --requirement $(PINS)/build.txt
	@touch $@

wheel: $(TOOLS)/.made ## dist/duplexd-VERSION-py3-none-any.whl, with units, man pages and examples
	rm -f dist/duplexd-*.whl
	$(PIP) wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .

nbd-wheel: $(TOOLS)/.made ## dist/duplexd_nbd-VERSION-py3-none-any.whl, docs/nbd-library.md
	rm -f dist/duplexd_nbd-*.whl
	$(PIP) wheel --quiet --no-deps --no-build-isolation --wheel-dir dist ./configs/nbd-library

dist: wheel nbd-wheel ## both wheels

# The share/ of the wheel moves to PREFIX. Removed from the virtual environment: scripts that activate
# it, programs of libraries, and every path of the building machine. Compiled here if it is in place;
# a package does that where it is installed. The user of the daemon has to read all of it, whatever
# the umask of root is.
install: ## duplexd below PREFIX (/usr/local), with pinned libraries, below DESTDIR if given
	@umask 022 && $(MAKE) --no-print-directory install-tree

install-tree: wheel
	"$(PYTHON)" -m venv --clear --without-pip $(DESTDIR)$(LIBDIR)
	$(INTO) --require-hashes --requirement $(PINS)/runtime.txt
	$(INTO) --no-deps --no-index --find-links dist duplexd==$(VERSION)
	cd $(DESTDIR)$(LIBDIR) && find bin -mindepth 1 ! -name 'python*' ! -name duplexd \
		! -name duplexctl -delete
	rm -f $(DESTDIR)$(LIBDIR)/lib/python*/site-packages/duplexd-*/direct_url.json
	sed -i 's|$(DESTDIR)$(LIBDIR)|$(LIBDIR)|g' \
		$(addprefix $(DESTDIR)$(LIBDIR)/,pyvenv.cfg bin/duplexd bin/duplexctl)
	install -d $(addprefix $(DESTDIR),$(PREFIX)/bin $(PREFIX)/share $(SYSTEMD)/systemd/system \
		$(PREFIX)/lib/sysusers.d $(PREFIX)/lib/tmpfiles.d)
	ln -sfr $(addprefix $(DESTDIR)$(LIBDIR)/bin/,duplexd duplexctl) $(DESTDIR)$(PREFIX)/bin/
	cd $(DESTDIR)$(LIBDIR)/share/duplexd/systemd && \
		install -m 0644 *.service *.socket *.timer *.target $(DESTDIR)$(SYSTEMD)/systemd/system/ && \
		install -m 0644 sysusers.d/* $(DESTDIR)$(PREFIX)/lib/sysusers.d/ && \
		install -m 0644 tmpfiles.d/* $(DESTDIR)$(PREFIX)/lib/tmpfiles.d/
	rm -rf $(DESTDIR)$(LIBDIR)/share/duplexd
	cp -r --no-preserve=ownership $(DESTDIR)$(LIBDIR)/share/. $(DESTDIR)$(PREFIX)/share/
	rm -rf $(DESTDIR)$(LIBDIR)/share $(DESTDIR)$(LIBDIR)/include
	$(if $(DESTDIR),,$(LIBDIR)/bin/python -m compileall -q $(LIBDIR)/lib)

# A native package of this tree, for the Debian that builds it. Nothing is compiled, hence -d: it
# needs no build-essential.
DEB_PACKAGES := debhelper dpkg-dev fakeroot python3-venv
DEB_VERSION := $(VERSION)
DEB_SOURCE := build/deb/duplexd
deb: ## dist/duplexd_VERSION_ARCHITECTURE.deb
	@$(MAKE) --no-print-directory apt-install WANTED="$(DEB_PACKAGES)"
	rm -rf build/deb dist/duplexd_*.deb && mkdir -p $(DEB_SOURCE) dist
	tar -c --exclude=__pycache__ Makefile pyproject.toml README.md CHANGELOG.md LICENSE configs docs \
		duplexd systemd | tar -x -C $(DEB_SOURCE)
	cp -r configs/debian $(DEB_SOURCE)/debian
	maintainer=$$(sed -n 's/^Maintainer: //p' configs/debian/control); \
	when=$${SOURCE_DATE_EPOCH:-$$(git log -1 --format=%ct 2>/dev/null || date +%s)}; \
	printf 'duplexd (%s) unstable; urgency=medium\n\n  * See CHANGELOG.md.\n\n -- %s  %s\n' \
		"$(DEB_VERSION)" "$$maintainer" "$$(date -R -d "@$$when")" > $(DEB_SOURCE)/debian/changelog
	cd $(DEB_SOURCE) && dpkg-buildpackage -b -d -us -uc
	cp build/deb/duplexd_*.deb dist/

clean: ## removes what make made, but not ./var
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis \
		.import_linter_cache .coverage* .fuzz
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
