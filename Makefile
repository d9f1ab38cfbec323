# SPDX-License-Identifier: BSD-3-Clause
#
# A thin cover over meson and the scripts; "make help" tells what there is.

BUILD  = build/release
PREFIX = /usr/local
ARGS   =

PYTHON = /usr/bin/python3

.PHONY: all build run test test-long fuzz soak bench bench-guests install clean distclean help

all: build

build:
	tools/setup.sh build
	test -f $(BUILD)/build.ninja || meson setup --buildtype=release --prefix=$(PREFIX) --sysconfdir=/etc $(BUILD)
	ninja -C $(BUILD)

run: build
	tools/setup.sh run
	guest/build.sh build/guest
	$(BUILD)/sidecore run $(ARGS)

test:
	tools/setup.sh build run test
	tests/run.sh $(ARGS)

# What variants of the guest tests add: not in the default run.
test-long:
	tools/setup.sh build run test
	tests/run.sh guest-long guest-newer

# ARGS: seconds for each target, then names of targets.
fuzz:
	tools/setup.sh build test
	tests/fuzz/run.sh $(if $(ARGS),$(ARGS),600)

# ARGS: --minutes N (30 by default).
soak: build
	tools/setup.sh run test
	guest/build.sh build/guest
	tools/qemu.sh build/qemu || echo "going on without a newer QEMU"
	$(PYTHON) tests/soak/soak.py $(ARGS)

bench: build
	tools/setup.sh bench
	$(PYTHON) bench/run.py $(ARGS)

# The same guest with QEMU's devices and with ours: long, and for a machine without other work.
bench-guests: build
	tools/setup.sh run bench
	guest/build.sh build/guest
	tools/qemu.sh build/qemu
	$(PYTHON) bench/guests.py $(ARGS)

# DESTDIR is honoured. A configuration that is there stays as it is.
install: build
	meson configure $(BUILD) -Dprefix=$(PREFIX) -Dsysconfdir=/etc
	meson install -C $(BUILD)
	test -e $(DESTDIR)/etc/sidecore/sidecore.yaml || \
		install -D -m 644 dist/sidecore.yaml $(DESTDIR)/etc/sidecore/sidecore.yaml
	@echo "Next: systemd-sysusers && systemctl daemon-reload && systemctl enable --now sidecore"

# The guest image takes long to make and stays; distclean removes it, too.
clean:
	rm -rf build/release build/asan build/tsan build/fuzz build/fuzz.logs build/test-results

distclean:
	rm -rf build

help:
	@echo "make            build a release binary into $(BUILD)"
	@echo "make run        boot two guests on one sidecore, measure, and print a table (ARGS=--help lists options)"
	@echo "make test       build and run every test (ARGS names suites; tests/run.sh --help lists them)"
	@echo "make fuzz       search for inputs that break anything (ARGS=seconds for each target)"
	@echo "make test-long  more variants of the guest tests: other models and kernels"
	@echo "make soak       kill, spoil and verify at random, half an hour long (ARGS=\"--minutes N\")"
	@echo "make bench      measure side by side with DPDK and QEMU (results in build/bench/)"
	@echo "make bench-guests  the same guest with QEMU's devices and with ours, in rounds"
	@echo "make install    install to PREFIX ($(PREFIX)), with manual pages and the systemd unit; DESTDIR is honoured"
	@echo "make clean      remove what was built; make distclean also the guest image"
	@echo
	@echo "make, run, test, fuzz, soak and bench install Debian packages that are missing (tools/setup.sh)."
