/* LD_PRELOAD: every opening of the file that COUNTED_FILE names, by any process, leaves one line in COUNT_LOG. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void *real(const char *name)
{
    return dlsym(RTLD_NEXT, name);
}

static void count(const char *path, const char *how)
{
    const char *counted = getenv("COUNTED_FILE"), *log = getenv("COUNT_LOG");
    if (!counted || !log || !path || strcmp(path, counted) != 0) return;
    int (*open_file)(const char *, int, ...) = (int (*)(const char *, int, ...))real("open");
    char line[64];
    const int size = snprintf(line, sizeof line, "%ld %s\n", (long)getpid(), how);
    const int file = open_file(log, O_WRONLY | O_APPEND | O_CREAT, 0600); /* appending is atomic */
    if (file < 0 || write(file, line, (size_t)size) != size) abort();
    close(file);
}

#define OPEN(name)                                                                                     \
    int name(const char *path, int flags, ...)                                                         \
    {                                                                                                  \
        va_list arguments;                                                                             \
        va_start(arguments, flags);                                                                    \
        const mode_t mode = flags & O_CREAT ? va_arg(arguments, mode_t) : 0;                           \
        va_end(arguments);                                                                             \
        count(path, #name);                                                                            \
        return ((int (*)(const char *, int, ...))real(#name))(path, flags, mode);                      \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                                                   \
    int name(int folder, const char *path, int flags, ...)                                             \
    {                                                                                                  \
        va_list arguments;                                                                             \
        va_start(arguments, flags);                                                                    \
        const mode_t mode = flags & O_CREAT ? va_arg(arguments, mode_t) : 0;                           \
        va_end(arguments);                                                                             \
        count(path, #name);                                                                            \
        return ((int (*)(int, const char *, int, ...))real(#name))(folder, path, flags, mode);         \
    }
OPENAT(openat)
OPENAT(openat64)

#define FOPEN(name)                                                                                    \
    FILE *name(const char *path, const char *mode)                                                     \
    {                                                                                                  \
        count(path, #name);                                                                            \
        return ((FILE * (*)(const char *, const char *)) real(#name))(path, mode);                     \
    }
FOPEN(fopen)
FOPEN(fopen64)
