#!/bin/sh
# usage: run_sanitized.sh CMAKE SOURCE BUILD CC
# Build the library and the C tests with -fsanitize=address,undefined (leaks included) and run them.
set -eu
cmake=$1 source=$2 build=$3 cc=$4
"$cmake" -S "$source" -B "$build" -DCMAKE_C_COMPILER="$cc" -DCMAKE_BUILD_TYPE=RelWithDebInfo -DLIBEMULATOR_FORTRAN=OFF \
  -DLIBEMULATOR_TOOLS=OFF -DLIBEMULATOR_EXAMPLES=OFF -DLIBEMULATOR_TESTS=ON -DLIBEMULATOR_SANITIZE=address,undefined \
  >"$build.log" 2>&1 || { cat "$build.log"; exit 1; }
"$cmake" --build "$build" --parallel 2 >>"$build.log" 2>&1 || { tail -50 "$build.log"; exit 1; }
ASAN_OPTIONS=detect_leaks=1:allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1 \
  "$(dirname "$cmake")/ctest" --test-dir "$build" --output-on-failure --timeout 300
