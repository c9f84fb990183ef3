# Every target installs what it needs and lacks; `make demo` is the place to begin.

FUZZ_SECONDS ?= 60

.PHONY: all demo test bench fuzz static clean

all:
	cargo build --release

demo:
	scripts/demo.sh

test:
	scripts/test.sh

bench:
	scripts/setup.sh bench
	scripts/static.sh
	cargo run --release -p coracle-bench -- --coracle $$(scripts/static.sh --path) $(BENCH)

fuzz:
	scripts/fuzz.sh $(FUZZ_SECONDS)

static:
	scripts/static.sh

clean:
	cargo clean
	rm -rf fuzz/target fuzz/corpus fuzz/artifacts
