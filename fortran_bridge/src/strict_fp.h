/* The compiler may not change a result, however it was called: no multiply-add that the source does not ask for, no
 * exception that the source does not raise. CMake says the same by flags; fpm and a compilation by hand by this file
 * alone. To be included before anything else.
 *
 * clang takes a comparison and a selection for a maximum, whose instruction raises "invalid" for a NaN, unless it is
 * told that exceptions matter. */
#ifndef EMU_STRICT_FP_H
#define EMU_STRICT_FP_H

#if defined(__FAST_MATH__)
#error "libemulator must not be compiled with -ffast-math: it would change results and lose NaN"
#endif

#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#if defined(__x86_64__) /* elsewhere clang 14 knows no strict exceptions, and says so */
#pragma STDC FENV_ACCESS ON
#endif
#elif defined(__GNUC__)
#pragma GCC optimize("fp-contract=off")
#if defined(EMU_OPTIMIZE) /* fpm compiles C without any -O, even with --profile release */
#pragma GCC optimize("O2")
#endif
#endif

#endif
