#include "protobuf.h"

emu_pb emu_pb_open(const void *data, size_t size)
{
    const uint8_t *start = data;
    emu_pb reader = {start, size > 0 ? start + size : start, false};
    return reader;
}

static bool damaged(emu_pb *reader)
{
    reader->bad = true;
    return false;
}

bool emu_pb_varint(emu_pb *reader, uint64_t *value)
{
    if (reader->bad || reader->at == reader->end)
        return false;
    *value = 0;
    for (unsigned shift = 0; shift < 70; shift += 7) {
        if (reader->at == reader->end)
            return damaged(reader);
        uint8_t byte = *reader->at++;
        if (shift == 63 && byte > 1) /* more than 64 bits */
            return damaged(reader);
        *value |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80)
            return true;
    }
    return damaged(reader);
}

static bool fixed(emu_pb *reader, size_t bytes, uint64_t *value)
{
    if ((size_t)(reader->end - reader->at) < bytes)
        return damaged(reader);
    *value = 0;
    for (size_t i = 0; i < bytes; i++)
        *value |= (uint64_t)reader->at[i] << (8 * i);
    reader->at += bytes;
    return true;
}

bool emu_pb_next(emu_pb *reader, emu_pb_field *field)
{
    uint64_t tag, size;
    if (!emu_pb_varint(reader, &tag))
        return false;
    field->number = tag >> 3;
    field->value = 0;
    field->data = NULL;
    field->size = 0;
    if (field->number == 0 || field->number >= (1u << 29))
        return damaged(reader);
    switch (tag & 7) {
    case PB_VARINT:
        field->type = PB_VARINT;
        return emu_pb_varint(reader, &field->value) || damaged(reader);
    case PB_FIXED64:
        field->type = PB_FIXED64;
        return fixed(reader, 8, &field->value);
    case PB_FIXED32:
        field->type = PB_FIXED32;
        return fixed(reader, 4, &field->value);
    case PB_BYTES:
        field->type = PB_BYTES;
        if (!emu_pb_varint(reader, &size) || size > (uint64_t)(reader->end - reader->at))
            return damaged(reader);
        field->data = reader->at;
        field->size = (size_t)size;
        reader->at += field->size;
        return true;
    default: /* groups and undefined types: ONNX has none */
        return damaged(reader);
    }
}
