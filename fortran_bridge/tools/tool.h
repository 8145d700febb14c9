/* What the command-line tools share: loading a model or ending with its message, and JSON text. */
#ifndef EMU_TOOL_H
#define EMU_TOOL_H

#include "libemulator.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static inline emu_model *load_or_exit(const char *tool, const char *path)
{
    char message[1024];
    emu_model *model = NULL;
    const emu_status status = emu_load(path, &model, message, sizeof message);
    if (status != EMU_OK) {
        fprintf(stderr, "%s: %s (%s)\n", tool, message, emu_status_name(status));
        exit(1);
    }
    return model;
}

static inline void print_json_text(const char *text)
{
    putchar('"');
    for (const unsigned char *p = (const unsigned char *)text; *p != '\0'; p++) {
        if (*p == '"' || *p == '\\')
            printf("\\%c", *p);
        else if (*p < 0x20)
            printf("\\u%04x", *p);
        else
            putchar(*p);
    }
    putchar('"');
}

#endif
