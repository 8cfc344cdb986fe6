#!/bin/sh
# Fuzz the readers of the C++ runtime: scripts/fuzz_cpp.sh build/cpp-fuzz SECONDS [NAME...]
#
# SECONDS are per reader. With Clang's libFuzzer what it found worth keeping stays in
# build/cpp-fuzz/corpus, and what broke a reader is in build/cpp-fuzz/found-*.
set -eu
build=$1
seconds=$2
shift 2
vectors=tests/vectors
seeds=devices/cpp/fuzz/seeds

for name in ${*:-json manifest state model targets ppm labels}; do
    case $name in
    json | manifest) from=$vectors/manifests ;;
    state) from=$vectors/states ;;
    model) from=$vectors/detectors ;;
    *) from=$seeds/$name ;;
    esac
    program=$build/fuzz/fuzz_$name
    echo "$name, $seconds s"
    if grep --quiet libFuzzer "$program"; then
        mkdir -p "$build/corpus/$name"
        "$program" -max_total_time="$seconds" -timeout=30 -rss_limit_mb=2048 -max_len=65536 \
            -artifact_prefix="$build/found-$name-" -verbosity=0 -print_final_stats=1 \
            "$build/corpus/$name" "$from" 2>&1 | grep -E "stat::number_of_executed_units|ERROR|SUMMARY"
        test -z "$(find "$build" -maxdepth 1 -name "found-$name-*")"
    else
        "$program" "$seconds" "$from"/*
    fi
done
