/* Checks that count themselves: a test ends with FINISH(n), which fails if any check failed or if their number is not
 * n, so that none drops out unseen. */
#ifndef CHECK_H
#define CHECK_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static long checks_made, checks_failed;

#define CHECK(condition, ...)                                                                                \
    do {                                                                                                     \
        checks_made++;                                                                                       \
        if (!(condition)) {                                                                                  \
            if (checks_failed++ < 20) {                                                                      \
                fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #condition);                              \
                fprintf(stderr, __VA_ARGS__);                                                                \
                fputc('\n', stderr);                                                                         \
            }                                                                                                \
        }                                                                                                    \
    } while (0)

#define FINISH(expected)                                                                                     \
    do {                                                                                                     \
        printf("%ld checks, %ld failed\n", checks_made, checks_failed);                                      \
        if (checks_made != (long)(expected))                                                                 \
            fprintf(stderr, "%s: expected %ld checks\n", __FILE__, (long)(expected));                        \
        return checks_failed != 0 || checks_made != (long)(expected);                                        \
    } while (0)

#endif
