#include "error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

emu_error emu_error_start(char *message, size_t size)
{
    if (message != NULL && size > 0)
        message[0] = '\0';
    emu_error error = {EMU_OK, size > 0 ? message : NULL, size};
    return error;
}

bool emu_fail(emu_error *error, emu_status status, const char *format, ...)
{
    if (error->status != EMU_OK)
        return false;
    error->status = status;
    if (error->message != NULL) {
        va_list arguments;
        va_start(arguments, format);
        vsnprintf(error->message, error->size, format, arguments);
        va_end(arguments);
    }
    return false;
}

const char *emu_show(emu_shown *buffer, emu_text text)
{
    const size_t limit = sizeof buffer->text - 4;
    size_t n = text.size < limit ? text.size : limit;
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)text.data[i];
        buffer->text[i] = (char)(c < 0x20 || c == 0x7f ? '?' : c);
    }
    memcpy(buffer->text + n, text.size > limit ? "..." : "", text.size > limit ? 4 : 1);
    return buffer->text;
}
