# SPDX-License-Identifier: GPL-2.0
#
# What a person types. The work is done by Kbuild (the module) and by the scripts in tools/ (everything around it).
# `make help` lists the targets.

# A tree of the target kernel that modules with Rust can be built against. Unset, one is made in the cache.
KDIR ?=

.DEFAULT_GOAL := all
.PHONY: all module debug-module user demo test bench bench-squall bench-commit check fmt reference fuzz bench-parser clean distclean help

all: module

module:
ifneq ($(KDIR),)
	@mkdir -p build/native
	+$(MAKE) -C $(KDIR) M=$(CURDIR) MO=$(CURDIR)/build/native modules
else
	+@tools/env module stock
endif

debug-module:
	+@tools/env module debug

user:
	@tools/env user

demo: module
	@tools/demo

test:
	@tools/test

bench:
	@tools/bench/run

bench-squall:
	@tools/bench/run --squall

bench-commit:
	@tools/bench/run --commit

check:
	@tools/check

SECONDS_EACH ?= 60

fuzz:
	@tools/fuzz --seconds $(SECONDS_EACH)

fmt:
	@tools/check --fix-format

reference:
	@tools/reference

bench-parser:
	@tools/bench-parser

clean:
	@tools/env unbuild

distclean: clean
	@tools/env clean

help:
	@echo 'make               builds squall.ko for the stock kernel of Debian 13, and what that needs'
	@echo 'make KDIR=TREE     builds squall.ko with the tools of this machine against a prepared kernel tree (see README.md)'
	@echo 'make user          builds what users run into build/user: squall-log, which follows the access log'
	@echo 'make demo          a chat through Squall in a virtual machine, reachable from this machine; Ctrl-C ends it'
	@echo 'make test          everything: host tests, lints, KUnit, selftests on the stock and on the debug kernel'
	@echo 'make bench         Squall and its peers, measured in virtual machines (20 minutes); what got better or worse'
	@echo 'make bench-squall  Squall only (7 minutes), against the committed figures of the peers'
	@echo 'make bench-commit  makes what `make bench` found the result that later ones are compared with'
	@echo 'make check         formatting, lints and the rules of the house only'
	@echo 'make fuzz          fuzzes the protocol code, each target for SECONDS_EACH=N seconds (default 60)'
	@echo 'make fmt           formats the Rust sources'
	@echo 'make reference     writes Documentation/reference.md from the tables in the source'
	@echo 'make bench-parser  counts and times the parser of heads beside httparse and llhttp (needs cargo, a C compiler, valgrind)'
	@echo 'make debug-module  builds squall.ko and squall_kunit.ko for the debug kernel'
	@echo 'make clean         removes what was built from this checkout'
	@echo 'make distclean     also removes the cache: toolchain, kernels, guest image'
	@echo
	@echo 'Variables: SQUALL_CACHE=DIR (default ~/.cache/squall), SQUALL_MIRROR=URL (a Debian mirror; default: that of this'
	@echo 'machine'"'"'s apt), KERNEL_TARBALL=FILE (the kernel source, when the archive no longer has it)'
