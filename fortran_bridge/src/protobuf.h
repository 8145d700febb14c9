/* A bounded reader of the protobuf wire format. It never looks beyond the bytes it was given, never recurses,
 * and allocates nothing. */
#ifndef EMU_PROTOBUF_H
#define EMU_PROTOBUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct {
    const uint8_t *at, *end;
    bool bad; /* set when the bytes are no valid message; reading then stops */
} emu_pb;

typedef enum { PB_VARINT = 0, PB_FIXED64 = 1, PB_BYTES = 2, PB_FIXED32 = 5 } emu_pb_type;

typedef struct {
    uint64_t number; /* of the field */
    emu_pb_type type;
    uint64_t value;      /* PB_VARINT, PB_FIXED64, PB_FIXED32 */
    const uint8_t *data; /* PB_BYTES */
    size_t size;
} emu_pb_field;

emu_pb emu_pb_open(const void *data, size_t size);

/* The next field; false at the end of the message, or when it is damaged (reader->bad). */
bool emu_pb_next(emu_pb *reader, emu_pb_field *field);

/* The next varint of a packed field; false at its end or when damaged. */
bool emu_pb_varint(emu_pb *reader, uint64_t *value);

#endif
