# make test   everything, in the short form      make demo   PostgreSQL, Weir and some load, to look at
# make prove  every promise at full size         make bench  Weir beside PgBouncer and PostgreSQL
# make regress   PostgreSQL's own regression suite, direct and through Weir, results compared
# make suites    the test suites of drivers and frameworks, direct and through Weir, outcomes compared
# make profile   of Weir at work, for the compiler: before a release, and for a new compiler

CARGO ?= tools/cargo
# Where cargo puts what it builds.
BUILT = $${CARGO_TARGET_DIR:-target}/release

.PHONY: test prove regress suites demo bench profile setup lint

test: setup lint
	$(CARGO) test --locked

# The same tests with full counts, in an optimised build: 1,000 vanishing clients, 10,000 racing cancels. Then other people's tests.
prove: setup lint
	WEIR_PROVE=1 $(CARGO) test --locked --release -- --nocapture
	$(MAKE) regress suites

# Three minutes. Options by REGRESS=, as `make regress REGRESS="--runs direct,5"`; REGRESS=--help says which.
regress:
	@tools/setup regress
	$(CARGO) build --locked --release --bin weir
	@WEIR_BIN=$(BUILT)/weir tools/regress $(REGRESS)

# Half an hour. `make suites SUITES=psycopg2` runs one of them; SUITES=--help says which there are.
suites:
	@tools/setup suites
	$(CARGO) build --locked --release --bin weir
	@WEIR_BIN=$(BUILT)/weir tools/suites $(SUITES)

# Options by DEMO=, as `make demo DEMO="--clients 100"`.
demo:
	@tools/setup demo
	$(CARGO) build --locked --release --bin weir
	@exec $(BUILT)/weir demo $(DEMO)

# Twenty minutes; `make bench BENCH=--quick` three. BENCH=--help says what else.
bench:
	@tools/setup bench
	$(CARGO) build --locked --release --example relay --example churn
	$(CARGO) build --locked --release --bin weir # by itself: beside an example it would get the tests' tokio, whose clock is slower
	@exec python3 benches/compare.py --weir $(BUILT)/weir --relay $(BUILT)/examples/relay --churn $(BUILT)/examples/churn $(BENCH)

# Eight minutes. What it leaves in benches/profiles is to be committed: tools/cargo builds releases by it.
TRAINED = $(CURDIR)/.work/profile
VERSION = $$(rustc --version | cut -d' ' -f2)
profile:
	@tools/setup bench
	rustup component add llvm-tools
	$(CARGO) build --locked --release --example churn
	RUSTFLAGS=-Cprofile-generate=$(TRAINED)/raw $(CARGO) build --locked --release --bin weir --target-dir $(TRAINED)/target
	rm -rf $(TRAINED)/raw # what build scripts left there
	python3 benches/train.py --weir $(TRAINED)/target/release/weir --churn $(BUILT)/examples/churn
	mkdir -p benches/profiles
	$$(rustc --print sysroot)/lib/rustlib/*/bin/llvm-profdata merge --sparse --output benches/profiles/$(VERSION).profdata $(TRAINED)/raw/*.profraw
	cksum < Cargo.lock > benches/profiles/$(VERSION).lock-sum

lint:
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets --quiet -- -D warnings

setup:
	@tools/setup test
