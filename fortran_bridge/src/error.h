/* The first error of a load or check: its status, and its text in the caller's buffer. */
#ifndef EMU_ERROR_H
#define EMU_ERROR_H

#include <stdbool.h>
#include <stddef.h>

#include "libemulator.h"

typedef struct emu_error {
    emu_status status;
    char *message; /* may be NULL */
    size_t size;
} emu_error;

/* Text of a file, not terminated, may hold anything. */
typedef struct {
    const char *data;
    size_t size;
} emu_text;

/* Empty message, EMU_OK. */
emu_error emu_error_start(char *message, size_t size);

/* Record the first error (later ones are ignored). Returns false always, so that a reader can write
 * `return emu_fail(...)`. */
#if defined(__GNUC__)
__attribute__((format(printf, 3, 4)))
#endif
bool emu_fail(emu_error *error, emu_status status, const char *format, ...);

/* For messages: at most 80 bytes of `text`, control characters replaced. Returns `buffer`. */
typedef struct {
    char text[84];
} emu_shown;
const char *emu_show(emu_shown *buffer, emu_text text);

#endif
