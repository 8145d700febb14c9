/* Field numbers are those of onnx.proto (ONNX 1.x, IR versions 3 to 10; they never change). */
#include "onnx.h"

#include <string.h>

#include "protobuf.h"

bool emu_text_is(emu_text text, const char *literal)
{
    return text.size == strlen(literal) && memcmp(text.data, literal, text.size) == 0;
}

bool emu_text_equal(emu_text a, emu_text b)
{
    return a.size == b.size && (a.size == 0 || memcmp(a.data, b.data, a.size) == 0);
}

static emu_text text_of(const emu_pb_field *field)
{
    return (emu_text){(const char *)field->data, field->size};
}

static bool broken(emu_error *error, const char *what)
{
    return emu_fail(error, EMU_ERR_FORMAT,
                    "not a valid ONNX file: %s is truncated or damaged; export it again, or compare checksums if it "
                    "was copied",
                    what);
}

static bool out_of_memory(emu_error *error)
{
    return emu_fail(error, EMU_ERR_MEMORY, "out of memory while reading the model");
}

/* A field that must hold bytes, or must hold a varint */
static bool expect(const emu_pb_field *field, emu_pb_type type, emu_error *error, const char *what)
{
    return field->type == type || broken(error, what);
}

/* ---- tensors ---- */

static size_t element_size(int32_t type)
{
    switch (type) {
    case ONNX_BOOL: return 1;
    case ONNX_FLOAT:
    case ONNX_INT32: return 4;
    case ONNX_DOUBLE:
    case ONNX_INT64: return 8;
    default: return 0;
    }
}

static void put_little_endian(uint8_t *to, uint64_t value, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        to[i] = (uint8_t)(value >> (8 * i));
}

/* Elements of a repeated numeric field (packed or not), appended to `to` unless it is NULL; *count goes up. */
static bool read_repeated(const emu_pb_field *field, emu_pb_type element, size_t size, size_t capacity, uint8_t *to,
                          size_t *count)
{
    if (field->type == element) {
        if (to != NULL && *count < capacity)
            put_little_endian(to + *count * size, field->value, size);
        ++*count;
        return true;
    }
    if (field->type != PB_BYTES)
        return false;
    if (element == PB_VARINT) {
        emu_pb packed = emu_pb_open(field->data, field->size);
        uint64_t value;
        while (emu_pb_varint(&packed, &value)) {
            if (to != NULL && *count < capacity)
                put_little_endian(to + *count * size, value, size);
            ++*count;
        }
        return !packed.bad;
    }
    if (field->size % size != 0)
        return false;
    if (to != NULL && *count + field->size / size <= capacity && field->size > 0)
        memcpy(to + *count * size, field->data, field->size);
    *count += field->size / size;
    return true;
}

static bool read_tensor(emu_text message, onnx_tensor *tensor, emu_arena *arena, emu_error *error)
{
    memset(tensor, 0, sizeof *tensor);
    emu_text raw = {NULL, 0};
    bool has_raw = false;
    emu_pb reader = emu_pb_open(message.data, message.size);
    emu_pb_field field;
    while (emu_pb_next(&reader, &field)) {
        switch (field.number) {
        case 1: { /* dims: varints, packed or not */
            emu_pb packed = emu_pb_open(field.data, field.size);
            uint64_t value = field.value;
            if (field.type != PB_VARINT && field.type != PB_BYTES)
                return broken(error, "a tensor's shape");
            while (field.type == PB_VARINT || emu_pb_varint(&packed, &value)) {
                if (tensor->rank == ONNX_MAX_RANK)
                    return emu_fail(error, EMU_ERR_LIMIT, "a tensor has more than %d dimensions", ONNX_MAX_RANK);
                if (value > INT64_MAX)
                    return emu_fail(error, EMU_ERR_FORMAT, "a tensor has a negative dimension");
                tensor->dims[tensor->rank++] = (int64_t)value;
                if (field.type == PB_VARINT)
                    break;
            }
            if (packed.bad)
                return broken(error, "a tensor's shape");
            break;
        }
        case 2:
            if (!expect(&field, PB_VARINT, error, "a tensor's type"))
                return false;
            tensor->type = field.value <= INT32_MAX ? (int32_t)field.value : -1;
            break;
        case 8:
            if (!expect(&field, PB_BYTES, error, "a tensor's name"))
                return false;
            tensor->name = text_of(&field);
            break;
        case 9:
            if (!expect(&field, PB_BYTES, error, "a tensor's data"))
                return false;
            raw = text_of(&field);
            has_raw = true;
            break;
        case 13:
        case 14:
            if (field.number == 13 || field.value != 0)
                return emu_fail(error, EMU_ERR_UNSUPPORTED,
                                "the weights are in another file (external data); save the model as one file");
            break;
        default: break;
        }
    }
    if (reader.bad)
        return broken(error, "a tensor");

    emu_shown shown;
    const char *name = emu_show(&shown, tensor->name);
    const size_t size = element_size(tensor->type);
    tensor->count = 1;
    for (int d = 0; d < tensor->rank; d++) {
        if (tensor->dims[d] != 0 && tensor->count > ONNX_MAX_FILE / (uint64_t)tensor->dims[d])
            return emu_fail(error, EMU_ERR_FORMAT, "tensor '%s' claims more elements than a file can hold", name);
        tensor->count *= (size_t)tensor->dims[d];
    }
    if (size == 0) /* refused where it is used; its shape and type stay for the message */
        return true;
    if (has_raw) {
        if (raw.size != tensor->count * size)
            return emu_fail(error, EMU_ERR_FORMAT, "tensor '%s' holds %zu bytes, its shape asks for %zu", name,
                            raw.size, tensor->count * size);
        tensor->data = (const uint8_t *)raw.data;
        return true;
    }
    /* float_data 4, int32_data 5 (bool too), int64_data 7, double_data 10 */
    const uint64_t data_field = tensor->type == ONNX_FLOAT    ? 4
                                : tensor->type == ONNX_DOUBLE ? 10
                                : tensor->type == ONNX_INT64  ? 7
                                                              : 5;
    const emu_pb_type element = data_field == 4 ? PB_FIXED32 : data_field == 10 ? PB_FIXED64 : PB_VARINT;
    uint8_t *data = NULL;
    for (int pass = 0; pass < 2; pass++) { /* count first, so that a false shape allocates nothing */
        size_t count = 0;
        reader = emu_pb_open(message.data, message.size);
        while (emu_pb_next(&reader, &field)) {
            if (field.number == data_field && !read_repeated(&field, element, size, tensor->count, data, &count))
                return broken(error, "a tensor's data");
        }
        if (pass == 1)
            break;
        if (count != tensor->count)
            return emu_fail(error, EMU_ERR_FORMAT, "tensor '%s' holds %zu values, its shape asks for %zu", name,
                            count, tensor->count);
        data = emu_arena_alloc(arena, tensor->count, size);
        if (data == NULL)
            return out_of_memory(error);
    }
    tensor->data = data;
    return true;
}

double emu_onnx_value_at(const onnx_tensor *tensor, size_t i)
{
    if (tensor->type == ONNX_FLOAT)
        return (double)emu_onnx_float_at(tensor, i);
    const size_t size = element_size(tensor->type);
    uint64_t bits = 0;
    for (size_t b = 0; b < size; b++)
        bits |= (uint64_t)tensor->data[i * size + b] << (8 * b);
    if (tensor->type == ONNX_DOUBLE) {
        double value;
        memcpy(&value, &bits, sizeof value);
        return value;
    }
    if (tensor->type == ONNX_INT32)
        return (double)(int32_t)(uint32_t)bits;
    return tensor->type == ONNX_BOOL ? (double)(bits != 0) : (double)(int64_t)bits;
}

/* ---- nodes ---- */

static bool read_node(emu_text message, onnx_node *node, emu_arena *arena, emu_error *error)
{
    memset(node, 0, sizeof *node);
    node->attributes = message;
    emu_pb_field field;
    for (int pass = 0; pass < 2; pass++) { /* count first */
        emu_pb reader = emu_pb_open(message.data, message.size);
        node->num_inputs = node->num_outputs = 0;
        while (emu_pb_next(&reader, &field)) {
            if (field.number > 5 && field.number != 7)
                continue;
            if (!expect(&field, PB_BYTES, error, "a node"))
                return false;
            emu_text *const names = field.number == 1 ? node->inputs : node->outputs;
            int *const count = field.number == 1 ? &node->num_inputs : &node->num_outputs;
            switch (field.number) {
            case 1:
            case 2:
                if (pass == 1)
                    names[*count] = text_of(&field);
                ++*count;
                break;
            case 3: node->name = text_of(&field); break;
            case 4: node->op_type = text_of(&field); break;
            case 7: node->domain = text_of(&field); break;
            default: break;
            }
            if (node->num_inputs > ONNX_MAX_NODE_NAMES || node->num_outputs > ONNX_MAX_NODE_NAMES)
                return emu_fail(error, EMU_ERR_LIMIT, "a node has more than %d inputs or outputs", ONNX_MAX_NODE_NAMES);
        }
        if (reader.bad)
            return broken(error, "a node");
        if (pass == 0) {
            node->inputs = emu_arena_alloc(arena, (size_t)(node->num_inputs + node->num_outputs), sizeof(emu_text));
            if (node->inputs == NULL)
                return out_of_memory(error);
            node->outputs = node->inputs + node->num_inputs;
        }
    }
    return true;
}

/* Floats (field 7) or integers (field 8) of an attribute, as a tensor of rank 1 */
static bool read_list(emu_text attribute, uint64_t number, onnx_tensor *tensor, emu_arena *arena, emu_error *error)
{
    const emu_pb_type element = number == 7 ? PB_FIXED32 : PB_VARINT;
    const size_t size = number == 7 ? 4 : 8;
    uint8_t *data = NULL;
    size_t capacity = 0;
    for (int pass = 0; pass < 2; pass++) {
        size_t count = 0;
        emu_pb reader = emu_pb_open(attribute.data, attribute.size);
        emu_pb_field field;
        while (emu_pb_next(&reader, &field)) {
            if (field.number == number && !read_repeated(&field, element, size, capacity, data, &count))
                return broken(error, "an attribute");
        }
        if (pass == 0) {
            capacity = count;
            data = emu_arena_alloc(arena, count, size);
            if (data == NULL)
                return out_of_memory(error);
        }
    }
    *tensor = (onnx_tensor){
        .type = number == 7 ? ONNX_FLOAT : ONNX_INT64, .rank = 1, .count = capacity, .data = data};
    tensor->dims[0] = (int64_t)capacity;
    return true;
}

bool emu_onnx_find_attribute(const onnx_node *node, const char *name, onnx_attribute *attribute, emu_arena *arena,
                             emu_error *error)
{
    memset(attribute, 0, sizeof *attribute);
    emu_pb reader = emu_pb_open(node->attributes.data, node->attributes.size);
    emu_pb_field field, part;
    while (emu_pb_next(&reader, &field)) {
        if (field.number != 5)
            continue;
        emu_text found_name = {NULL, 0}, tensor = {NULL, 0};
        onnx_attribute found = {.kind = ONNX_OTHER};
        emu_pb inner = emu_pb_open(field.data, field.size);
        while (emu_pb_next(&inner, &part)) {
            uint32_t bits = (uint32_t)part.value;
            float real;
            memcpy(&real, &bits, sizeof real);
            if (part.number == 1 && part.type == PB_BYTES) {
                found_name = text_of(&part);
            } else if (part.number == 2 && part.type == PB_FIXED32) {
                found.kind = ONNX_REAL;
                found.real = (double)real;
            } else if (part.number == 3 && part.type == PB_VARINT) {
                found.kind = ONNX_INT;
                found.integer = (int64_t)part.value;
            } else if (part.number == 5 && part.type == PB_BYTES) {
                found.kind = ONNX_TENSOR;
                tensor = text_of(&part);
            } else if (part.number == 4 && part.type == PB_BYTES) {
                found.kind = ONNX_TEXT;
                found.text = text_of(&part);
            } else if (part.number == 7 || part.number == 8) {
                found.kind = part.number == 7 ? ONNX_REALS : ONNX_INTS;
            }
        }
        if (inner.bad)
            return broken(error, "an attribute");
        if (!emu_text_is(found_name, name))
            continue;
        if (found.kind == ONNX_TENSOR && !read_tensor(tensor, &found.tensor, arena, error))
            return false;
        if ((found.kind == ONNX_REALS || found.kind == ONNX_INTS) &&
            !read_list(text_of(&field), found.kind == ONNX_REALS ? 7 : 8, &found.tensor, arena, error))
            return false;
        *attribute = found;
        return true;
    }
    return true;
}

/* ---- graph ---- */

/* ValueInfoProto: name 1, type 2 { tensor_type 1 { elem_type 1, shape 2 { dim 1 { dim_value 1 } } } } */
static bool read_value(emu_text message, onnx_value *value, emu_error *error)
{
    memset(value, 0, sizeof *value);
    value->rank = -1;
    emu_pb reader = emu_pb_open(message.data, message.size), type, tensor, shape, dim;
    emu_pb_field a, b, c, d, e;
    while (emu_pb_next(&reader, &a)) {
        if (a.number == 1)
            value->name = text_of(&a);
        if (a.number != 2 || a.type != PB_BYTES)
            continue;
        type = emu_pb_open(a.data, a.size);
        while (emu_pb_next(&type, &b)) {
            if (b.number != 1 || b.type != PB_BYTES)
                continue;
            tensor = emu_pb_open(b.data, b.size);
            while (emu_pb_next(&tensor, &c)) {
                if (c.number == 1 && c.type == PB_VARINT && c.value <= INT32_MAX)
                    value->type = (int32_t)c.value;
                if (c.number != 2 || c.type != PB_BYTES)
                    continue;
                value->rank = 0;
                shape = emu_pb_open(c.data, c.size);
                while (emu_pb_next(&shape, &d)) {
                    if (d.number != 1 || d.type != PB_BYTES)
                        continue;
                    if (value->rank == ONNX_MAX_RANK)
                        return emu_fail(error, EMU_ERR_LIMIT, "a graph input has more than %d dimensions",
                                        ONNX_MAX_RANK);
                    int64_t size = -1;
                    dim = emu_pb_open(d.data, d.size);
                    while (emu_pb_next(&dim, &e)) {
                        if (e.number == 1 && e.type == PB_VARINT && e.value <= INT64_MAX)
                            size = (int64_t)e.value;
                    }
                    if (dim.bad)
                        return broken(error, "a shape");
                    value->dims[value->rank++] = size;
                }
                if (shape.bad)
                    return broken(error, "a shape");
            }
            if (tensor.bad)
                return broken(error, "a type");
        }
        if (type.bad)
            return broken(error, "a type");
    }
    return !reader.bad || broken(error, "a graph input or output");
}

/* GraphProto: node 1, initializer 5, input 11, output 12, sparse_initializer 15 */
static bool read_graph(emu_text message, onnx_model *model, emu_arena *arena, emu_error *error)
{
    emu_pb_field field;
    for (int pass = 0; pass < 2; pass++) {
        emu_pb reader = emu_pb_open(message.data, message.size);
        model->num_nodes = model->num_tensors = model->num_inputs = model->num_outputs = 0;
        while (emu_pb_next(&reader, &field)) {
            emu_text part = text_of(&field);
            bool good = true;
            if ((field.number == 1 || field.number == 5 || field.number == 11 || field.number == 12) &&
                field.type != PB_BYTES)
                return broken(error, "the graph");
            switch (field.number) {
            case 1:
                good = pass == 0 || read_node(part, &model->nodes[model->num_nodes], arena, error);
                model->num_nodes++;
                break;
            case 5:
                good = pass == 0 || read_tensor(part, &model->tensors[model->num_tensors], arena, error);
                model->num_tensors++;
                break;
            case 11:
                good = pass == 0 || read_value(part, &model->inputs[model->num_inputs], error);
                model->num_inputs++;
                break;
            case 12:
                good = pass == 0 || read_value(part, &model->outputs[model->num_outputs], error);
                model->num_outputs++;
                break;
            case 15:
                return emu_fail(error, EMU_ERR_UNSUPPORTED,
                                "the graph holds sparse weights; export them as ordinary tensors");
            default: break;
            }
            if (!good)
                return false;
            if (model->num_nodes > ONNX_MAX_NODES || model->num_tensors > ONNX_MAX_TENSORS ||
                model->num_inputs > ONNX_MAX_TENSORS || model->num_outputs > ONNX_MAX_TENSORS)
                return emu_fail(error, EMU_ERR_LIMIT, "the graph has more than %d nodes or tensors", ONNX_MAX_NODES);
        }
        if (reader.bad)
            return broken(error, "the graph");
        if (pass == 0) {
            model->nodes = emu_arena_alloc(arena, (size_t)model->num_nodes, sizeof *model->nodes);
            model->tensors = emu_arena_alloc(arena, (size_t)model->num_tensors, sizeof *model->tensors);
            model->inputs = emu_arena_alloc(arena, (size_t)model->num_inputs, sizeof *model->inputs);
            model->outputs = emu_arena_alloc(arena, (size_t)model->num_outputs, sizeof *model->outputs);
            if (!model->nodes || !model->tensors || !model->inputs || !model->outputs)
                return out_of_memory(error);
        }
    }
    return true;
}

static bool read_metadata(emu_text message, onnx_metadata *entry, emu_error *error)
{
    memset(entry, 0, sizeof *entry);
    emu_pb reader = emu_pb_open(message.data, message.size);
    emu_pb_field field;
    while (emu_pb_next(&reader, &field)) {
        if (field.number == 1)
            entry->key = text_of(&field);
        if (field.number == 2)
            entry->value = text_of(&field);
    }
    return !reader.bad || broken(error, "the metadata");
}

static bool read_opset(emu_text message, int64_t *opset, emu_error *error)
{
    emu_text domain = {NULL, 0};
    int64_t version = 0;
    emu_pb reader = emu_pb_open(message.data, message.size);
    emu_pb_field field;
    while (emu_pb_next(&reader, &field)) {
        if (field.number == 1)
            domain = text_of(&field);
        if (field.number == 2 && field.value <= INT32_MAX)
            version = (int64_t)field.value;
    }
    if (domain.size == 0 || emu_text_is(domain, "ai.onnx"))
        *opset = version;
    return !reader.bad || broken(error, "the operator set");
}

/* ModelProto: graph 7, opset_import 8, metadata_props 14 */
bool emu_onnx_read_metadata(emu_text bytes, onnx_model *model, emu_arena *arena, emu_error *error)
{
    memset(model, 0, sizeof *model);
    model->size = bytes.size;
    emu_pb_field field;
    for (int pass = 0; pass < 2; pass++) {
        emu_pb reader = emu_pb_open(bytes.data, bytes.size);
        model->num_metadata = 0;
        while (emu_pb_next(&reader, &field)) {
            if ((field.number == 7 || field.number == 8 || field.number == 14) && field.type != PB_BYTES)
                return broken(error, "the file");
            if (field.number == 7)
                model->graph = text_of(&field);
            if (field.number == 8 && !read_opset(text_of(&field), &model->opset, error))
                return false;
            if (field.number == 14) {
                if (pass == 1 && !read_metadata(text_of(&field), &model->metadata[model->num_metadata], error))
                    return false;
                if (++model->num_metadata > ONNX_MAX_METADATA)
                    return emu_fail(error, EMU_ERR_LIMIT, "the file has more than %d metadata entries",
                                    ONNX_MAX_METADATA);
            }
        }
        if (reader.bad)
            return broken(error, "the file");
        if (pass == 0) {
            model->metadata = emu_arena_alloc(arena, (size_t)model->num_metadata, sizeof *model->metadata);
            if (model->metadata == NULL)
                return out_of_memory(error);
        }
    }
    return true;
}

bool emu_onnx_read(emu_text bytes, onnx_model *model, emu_arena *arena, emu_error *error)
{
    if (bytes.size > ONNX_MAX_FILE)
        return emu_fail(error, EMU_ERR_LIMIT, "the file is larger than 2 GiB, the limit of the format");
    if (!emu_onnx_read_metadata(bytes, model, arena, error))
        return false;
    if (model->graph.data == NULL)
        return broken(error, "the file (it has no graph)");
    if (model->opset == 0)
        return broken(error, "the file (it states no operator set)");
    if (model->opset < 7) /* before 7, operators broadcast by an attribute */
        return emu_fail(error, EMU_ERR_UNSUPPORTED,
                        "the model uses ONNX operator set %lld; export it with operator set 7 or later",
                        (long long)model->opset);
    return read_graph(model->graph, model, arena, error);
}
