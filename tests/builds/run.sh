#!/bin/sh
# usage: run.sh CMAKE SOURCE BUILD [CC=NAME,...] [FC=NAME,...] [NEEDS=NAME] [TESTS=REGEX] [WITHOUT=REGEX] [TARGETS=NAME,...] [CMAKE OPTION...]
# Configure, build and run the tests. CC and FC: the first of these compilers that is there. 77: there is none,
# or the program that the tests need is not there.
set -eu
cmake=$1 source=$2 build=$3
shift 3
tests=.
without=none
targets=all

first_of() {
  for name in $(echo "$1" | tr ',' ' '); do
    command -v "$name" && return
  done
  echo "none of these programs is here: $1" >&2
  exit 77
}

for argument in "$@"; do
  shift
  case $argument in
    CC=*) cc=$(first_of "${argument#CC=}") || exit $?; set -- "$@" -DCMAKE_C_COMPILER="$cc" ;;
    FC=*) fc=$(first_of "${argument#FC=}") || exit $?; set -- "$@" -DCMAKE_Fortran_COMPILER="$fc" ;;
    NEEDS=*) first_of "${argument#NEEDS=}" >/dev/null || exit $? ;;
    TESTS=*) tests=${argument#TESTS=} ;;
    WITHOUT=*) without=${argument#WITHOUT=} ;;
    TARGETS=*) targets=$(echo "${argument#TARGETS=}" | tr ',' ' ') ;;
    *) set -- "$@" "$argument" ;;
  esac
done

mkdir -p "$build"
"$cmake" -S "$source" -B "$build" -DLIBEMULATOR_TESTS=ON -DLIBEMULATOR_EXAMPLES=OFF -DLIBEMULATOR_OTHER_BUILDS=OFF "$@" \
  >"$build.log" 2>&1 || { cat "$build.log"; exit 1; }
"$cmake" --build "$build" --parallel 2 --target $targets >>"$build.log" 2>&1 || { tail -50 "$build.log"; exit 1; }
ASAN_OPTIONS=detect_leaks=1:allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1 TSAN_OPTIONS=halt_on_error=1 \
  "$(dirname "$cmake")/ctest" --test-dir "$build" --output-on-failure --no-tests=error --timeout 300 -R "$tests" -E "$without"
