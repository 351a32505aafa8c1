#!/bin/sh
# A RUSTC_WRAPPER: compiles the library under test with the coverage counters that libFuzzer steers by, everything else
# as it is. These flags are stable, so neither a nightly nor RUSTC_BOOTSTRAP is needed; and since only one
# crate gets them, the dependencies are those of the ordinary tests.
case " $* " in
*" --crate-name alluvium "*)
    exec "$@" -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
        -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
        -Cllvm-args=-sanitizer-coverage-trace-compares
    ;;
*) exec "$@" ;;
esac
