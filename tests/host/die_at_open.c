/* LD_PRELOAD: a process that opens a file for writing whose path contains FATAL_FILE is killed right after, as if a user or a
 * batch system had stopped it while it wrote. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

#define OPEN(name)                                                                            \
    int name(const char *path, int flags, ...)                                                \
    {                                                                                         \
        va_list arguments;                                                                    \
        va_start(arguments, flags);                                                           \
        const mode_t mode = flags & O_CREAT ? va_arg(arguments, mode_t) : 0;                  \
        va_end(arguments);                                                                    \
        const int file = ((int (*)(const char *, int, ...))dlsym(RTLD_NEXT, #name))(path, flags, mode); \
        const char *fatal = getenv("FATAL_FILE");                                             \
        if (fatal && strstr(path, fatal) && (flags & O_TRUNC)) raise(SIGKILL);                \
        return file;                                                                          \
    }
OPEN(open)
OPEN(open64)
