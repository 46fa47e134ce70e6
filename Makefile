# make test   everything, in the short form      make demo   PostgreSQL, Weir and some load, to look at
# make prove  every promise at full size         make bench  Weir beside PgBouncer and PostgreSQL

CARGO ?= cargo

.PHONY: test prove setup lint

test: setup lint
	$(CARGO) test --locked

# The same tests with full counts, in an optimised build: 1,000 vanishing clients, 10,000 racing cancels.
prove: setup lint
	WEIR_PROVE=1 $(CARGO) test --locked --release -- --nocapture

lint:
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets --quiet -- -D warnings

setup:
	@tools/setup test
