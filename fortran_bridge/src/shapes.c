/* Operators that rearrange columns or change dimensions only: none of them costs anything when the model runs. */
#include <limits.h>
#include <math.h>
#include <string.h>

#include "columns.h"

/* ---- constants ---- */

bool emu_constant(emu_draft *draft, emu_value *const *inputs, emu_value *const *results)
{
    static const char *const names[] = {"value", "value_float", "value_floats", "value_int", "value_ints"};
    emu_value *result = results[0];
    (void)inputs;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        onnx_attribute value;
        if (!emu_attribute(draft, names[i], &value))
            return false;
        if (value.kind == ONNX_TENSOR || value.kind == ONNX_REALS || value.kind == ONNX_INTS) {
            onnx_tensor *tensor = emu_arena_alloc(draft->scratch, 1, sizeof *tensor);
            if (tensor == NULL)
                return emu_draft_memory(draft);
            *tensor = value.tensor;
            result->tensor = tensor;
            result->type = tensor->type;
            result->rank = tensor->rank;
            return true;
        }
        if (value.kind == ONNX_REAL || value.kind == ONNX_INT) {
            const emu_value scalar = {.type = value.kind == ONNX_REAL ? ONNX_FLOAT : ONNX_INT64};
            if (!emu_start_result(draft, result, 1, &scalar))
                return false;
            result->columns[0] = (emu_column){
                .slot = SLOT_CONSTANT, .value = value.kind == ONNX_REAL ? value.real : (double)value.integer};
            return true;
        }
    }
    return emu_refuse_node(draft, EMU_ERR_UNSUPPORTED, "holds no numbers");
}

/* [n], or [ncol, n] where the graph asked for the number of samples */
bool emu_constant_of_shape(emu_draft *draft, emu_value *const *inputs, emu_value *const *results)
{
    const double *shape;
    int64_t rank;
    onnx_attribute value;
    if (!emu_as_integers(draft, inputs[0], &shape, &rank) || !emu_attribute(draft, "value", &value))
        return false;
    const bool is_rows = rank == 2 && isnan(shape[0]);
    const double n = rank == 0 ? 1.0 : shape[rank - 1];
    if (rank > 2 || (rank == 2 && !is_rows) || isnan(n) || n < 1.0 || n > MAX_WIDTH)
        return emu_refuse_node(draft, EMU_ERR_UNSUPPORTED, "makes another shape than one row");
    const bool given = value.kind == ONNX_TENSOR && value.tensor.count > 0 && value.tensor.data != NULL;
    const emu_value like = {
        .type = given ? value.tensor.type : ONNX_FLOAT, .rank = (int)rank, .is_rows = is_rows};
    if (!emu_start_result(draft, results[0], (int64_t)n, &like))
        return false;
    for (int64_t i = 0; i < results[0]->n; i++)
        results[0]->columns[i] = (emu_column){
            .slot = SLOT_CONSTANT, .value = given ? emu_onnx_value_at(&value.tensor, 0) : 0.0};
    return true;
}

/* ---- dimensions of a value; NaN stands for the number of samples ---- */

static double dimension(const emu_value *value, int d)
{
    if (value->tensor != NULL)
        return (double)value->tensor->dims[value->transposed ? value->rank - 1 - d : d];
    if (value->is_rows && d == 0)
        return (double)NAN;
    return d == value->rank - 1 ? (double)value->n : 1.0;
}

bool emu_shape(emu_draft *draft, emu_value *const *inputs, emu_value *const *results)
{
    const emu_value *input = inputs[0];
    int64_t start = 0, end = input->rank;
    if (!emu_attribute_int(draft, "start", &start) || !emu_attribute_int(draft, "end", &end))
        return false;
    start = start < 0 ? start + input->rank : start;
    end = end < 0 ? end + input->rank : end > input->rank ? input->rank : end;
    if (start < 0 || end <= start || input->comparisons != NULL)
        return emu_refuse_node(draft, EMU_ERR_UNSUPPORTED, "asks for no dimension");
    const emu_value like = {.type = ONNX_INT64, .rank = 1};
    if (!emu_start_result(draft, results[0], end - start, &like))
        return false;
    for (int64_t d = start; d < end; d++)
        results[0]->columns[d - start] =
            (emu_column){.slot = SLOT_CONSTANT, .value = dimension(input, (int)d)};
    return true;
}

/* The same columns with another number of dimensions */
static bool same_columns(emu_draft *draft, emu_value *input, int rank, emu_value *result)
{
    if (!emu_identity(draft, input, result))
        return false;
    if (rank != result->rank) { /* a stored constant keeps its own dimensions */
        if (!emu_as_columns(draft, result))
            return false;
        result->tensor = NULL;
    }
    result->rank = rank;
    return true;
}

static bool refuse_shape(emu_draft *draft)
{
    return emu_refuse_node(draft, EMU_ERR_UNSUPPORTED,
                           "changes the shape to something else than one row of columns per sample");
}

bool emu_reshape(emu_draft *draft, emu_value *const *inputs, emu_value *const *results)
{
    emu_value *input = inputs[0];
    const double *shape;
    int64_t rank, allow_zero = 0;
    if (!emu_as_columns(draft, input) || !emu_as_integers(draft, inputs[1], &shape, &rank) ||
        !emu_attribute_int(draft, "allowzero", &allow_zero))
        return false;
    if (rank > ONNX_MAX_RANK)
        return refuse_shape(draft);
    /* Whatever the first dimension is written as (-1, 0, the number of samples), it must turn out to be that number. */
    double dims[ONNX_MAX_RANK] = {0.0}, product = 1.0;
    int64_t samples = 0, open = -1, first = 0;
    for (int64_t d = 0; d < rank; d++) {
        dims[d] = shape[d] == 0.0 && allow_zero == 0 && d < input->rank ? dimension(input, (int)d) : shape[d];
        if (isnan(dims[d])) {
            samples++;
            first = d;
        } else if (dims[d] == -1.0) {
            if (open >= 0)
                return refuse_shape(draft);
            open = d;
        } else {
            product *= dims[d];
        }
    }
    if (input->is_rows && input->n > 1 && rank == 2 && samples == 0 && open == 0 && dims[1] == 1.0) {
        results[0]->stacked = true; /* what skl2onnx makes of several outputs: [ncol * n, 1] */
        return same_columns(draft, input, 2, results[0]);
    }
    if (input->is_rows) {
        if (samples == 0 && open == 0 && product == (double)input->n) {
            samples = 1; /* [-1, n] */
            open = -1;
        }
        if (samples != 1 || first != 0)
            return refuse_shape(draft);
    } else if (samples > 0) {
        return refuse_shape(draft);
    }
    if (open >= 0)
        dims[open] = (double)input->n / product;
    for (int64_t d = input->is_rows ? 1 : 0; d + 1 < rank; d++)
        if (dims[d] != 1.0)
            return refuse_shape(draft);
    const double n = rank == 0 || (input->is_rows && rank == 1) ? 1.0 : dims[rank - 1];
    if (n != (double)input->n || (input->is_rows && rank == 0))
        return refuse_shape(draft);
    return same_columns(draft, input, (int)rank, results[0]);
}

bool emu_flatten(emu_draft *draft, emu_value *const *inputs, emu_value *const *results)
{
    emu_value *input = inputs[0];
    int64_t axis = 1;
    if (!emu_attribute_int(draft, "axis", &axis))
        return false;
    if (axis < 0)
        axis += input->rank;
    if (!input->is_rows || axis < 1 || axis >= input->rank)
        return refuse_shape(draft);
    return same_columns(draft, input, 2, results[0]);
}

/* Axes from the attribute (before operator set 13) or the second input; *count is -1 if there are none */
static bool read_axes(emu_draft *draft, emu_value *input, const double **axes, int64_t *count)
{
    onnx_attribute attribute;
    *count = -1;
    if (!emu_attribute(draft, "axes", &attribute))
        return false;
    if (input != NULL)
        return emu_as_integers(draft, input, axes, count);
    if (attribute.kind != ONNX_INTS)
        return true;
    const emu_value like = {.tensor = &attribute.tensor, .type = ONNX_INT64, .rank = 1};
    emu_value list = like;
    return emu_as_integers(draft, &list, axes, count);
}

bool emu_squeeze(emu_draft *draft, emu_value *const *inputs, emu_value *const *results)
{
    emu_value *input = inputs[0];
    const double *axes = NULL;
    int64_t count;
    if (!emu_as_columns(draft, input) || !read_axes(draft, inputs[1], &axes, &count))
        return false;
    if (count < 0 && input->is_rows)
        return emu_refuse_node(draft, EMU_ERR_UNSUPPORTED, "names no axes, so that its result depends on the batch");
    bool columns_gone = count < 0;
    for (int64_t i = 0; i < count; i++) {
        const double axis = axes[i] < 0.0 ? axes[i] + input->rank : axes[i];
        if (!(axis >= (input->is_rows ? 1.0 : 0.0) && axis < input->rank))
            return refuse_shape(draft);
        columns_gone = columns_gone || axis == input->rank - 1;
    }
    const int64_t rank = count < 0 ? (input->n == 1 ? 0 : 1) : input->rank - count;
    if ((columns_gone && count >= 0 && input->n != 1) || rank < (input->is_rows ? 1 : 0))
        return refuse_shape(draft);
    return same_columns(draft, input, (int)rank, results[0]);
}

bool emu_unsqueeze(emu_draft *draft, emu_value *const *inputs, emu_value *const *results)
{
    emu_value *input = inputs[0];
    const double *axes = NULL;
    int64_t count;
    if (!emu_as_columns(draft, input) || !read_axes(draft, inputs[1], &axes, &count))
        return false;
    if (count < 0 || count > ONNX_MAX_RANK - input->rank)
        return emu_refuse_node(draft, EMU_ERR_UNSUPPORTED, "names no axes, or too many");
    const int rank = input->rank + (int)count;
    for (int64_t i = 0; i < count; i++) {
        const double axis = axes[i] < 0.0 ? axes[i] + rank : axes[i];
        const bool last = axis == rank - 1; /* only a single column may get a dimension behind it */
        if (!(axis >= (input->is_rows ? 1.0 : 0.0) && axis < rank) || (last && input->n != 1))
            return refuse_shape(draft);
    }
    return same_columns(draft, input, rank, results[0]);
}

bool emu_transpose(emu_draft *draft, emu_value *const *inputs, emu_value *const *results)
{
    emu_value *input = inputs[0], *result = results[0];
    onnx_attribute perm;
    if (!emu_attribute(draft, "perm", &perm))
        return false;
    bool same = perm.kind == ONNX_INTS, reversed = input->rank == 2;
    for (size_t d = 0; perm.kind == ONNX_INTS && d < perm.tensor.count; d++) {
        const double to = emu_onnx_value_at(&perm.tensor, d);
        same = same && to == (double)d;
        reversed = reversed && to == (double)(1 - (int)d);
    }
    if (!same && !reversed)
        return emu_refuse_node(draft, EMU_ERR_UNSUPPORTED, "exchanges other dimensions than two");
    if (!emu_identity(draft, input, result))
        return false;
    if (!same)
        result->transposed = !input->transposed;
    if (result->tensor == NULL && !result->is_rows) /* a computed constant */
        return same || refuse_shape(draft);
    return true;
}

/* ---- columns taken and joined ---- */

static bool take_columns(emu_draft *draft, emu_value *input, const int64_t *which, int64_t count, int rank,
                         emu_value *result)
{
    if (!emu_start_result(draft, result, count, input))
        return false;
    for (int64_t i = 0; i < count; i++)
        result->columns[i] = input->columns[which[i]];
    result->rank = rank;
    result->transposed = input->transposed;
    return true;
}

/* The axis along which the columns lie */
static bool check_axis(emu_draft *draft, const emu_value *input, double axis)
{
    const int columns = input->transposed || input->rank == 0 ? 0 : input->rank - 1;
    if (input->is_rows && input->rank < 2)
        return emu_refuse_node(draft, EMU_ERR_UNSUPPORTED, "needs a dimension of columns");
    return (axis < 0.0 ? axis + input->rank : axis) == columns ||
           emu_refuse_node(draft, EMU_ERR_UNSUPPORTED, "works along axis %g; that of the columns, %d, is possible",
                           axis, columns);
}

bool emu_concat(emu_draft *draft, emu_value *const *inputs, emu_value *const *results)
{
    const int count = draft->node->num_inputs;
    int64_t axis = 1, n = 0;
    if (!emu_attribute_int(draft, "axis", &axis))
        return false;
    for (int k = 0; k < count; k++) {
        if (inputs[k] == NULL)
            return emu_refuse_node(draft, EMU_ERR_FORMAT, "leaves out an input");
        if (!emu_as_columns(draft, inputs[k]) || !check_axis(draft, inputs[k], (double)axis))
            return false;
        if (inputs[k]->is_rows != inputs[0]->is_rows || inputs[k]->rank != inputs[0]->rank)
            return emu_refuse_node(draft, EMU_ERR_UNSUPPORTED, "joins tensors of different dimensions");
        n += inputs[k]->n;
    }
    if (!emu_start_result(draft, results[0], n, inputs[0]))
        return false;
    n = 0;
    for (int k = 0; k < count; k++) {
        memcpy(results[0]->columns + n, inputs[k]->columns, (size_t)inputs[k]->n * sizeof(emu_column));
        n += inputs[k]->n;
        if (emu_is_f32(inputs[k]) != emu_is_f32(inputs[0]))
            return emu_refuse_node(draft, EMU_ERR_FORMAT, "joins different data types");
    }
    return true;
}

/* One of the four lists of Slice: from an input (operator set 10 and later) or an attribute */
static bool slice_list(emu_draft *draft, const char *name, emu_value *input, const double **list, int64_t *count)
{
    onnx_attribute attribute;
    *count = -1;
    if (input != NULL)
        return emu_as_integers(draft, input, list, count);
    if (!emu_attribute(draft, name, &attribute))
        return false;
    if (attribute.kind != ONNX_INTS)
        return true;
    emu_value value = {.tensor = &attribute.tensor, .type = ONNX_INT64, .rank = 1};
    return emu_as_integers(draft, &value, list, count);
}

bool emu_slice(emu_draft *draft, emu_value *const *inputs, emu_value *const *results)
{
    static const char *const names[4] = {"starts", "ends", "axes", "steps"};
    emu_value *input = inputs[0];
    const double *lists[4] = {NULL};
    int64_t counts[4];
    if (!emu_as_columns(draft, input))
        return false;
    for (int k = 0; k < 4; k++)
        if (!slice_list(draft, names[k], inputs[k + 1], &lists[k], &counts[k]))
            return false;
    for (int k = 0; k < 4; k++)
        if (counts[k] != counts[0] && (counts[k] >= 0 || k < 2))
            return emu_refuse_node(draft, EMU_ERR_FORMAT, "has lists of different lengths");
    const int columns = input->rank == 0 ? 0 : input->rank - 1;
    const double n = (double)input->n;
    double start = 0.0, end = n, step = 1.0;
    for (int64_t i = 0; i < counts[0]; i++) {
        const double from = lists[0][i], to = lists[1][i], stride = lists[3] != NULL ? lists[3][i] : 1.0;
        double axis = lists[2] != NULL ? lists[2][i] : (double)i;
        axis = axis < 0.0 ? axis + input->rank : axis;
        if (isnan(from) || isnan(to) || isnan(stride))
            return emu_refuse_node(draft, EMU_ERR_UNSUPPORTED, "depends on the number of samples");
        if (axis != columns || (input->is_rows && input->rank < 2)) {
            if (!input->is_rows || from != 0.0 || to < (double)INT_MAX || stride != 1.0)
                return emu_refuse_node(draft, EMU_ERR_UNSUPPORTED, "takes a part of the samples");
            continue;
        }
        step = stride > n ? n : stride < -n ? -n : stride; /* one column each */
        if (stride == 0.0)
            return emu_refuse_node(draft, EMU_ERR_FORMAT, "has a step of 0");
        /* negative numbers count from the end; then limited to what there is */
        const double low = stride > 0.0 ? 0.0 : -1.0, high = stride > 0.0 ? n : n - 1.0;
        start = from < 0.0 ? from + n : from;
        start = start < 0.0 ? 0.0 : start > high ? high : start;
        end = to < 0.0 ? to + n : to;
        end = end < low ? low : end > high ? high : end;
    }
    const double span = (end - start) / step;
    const int64_t count = span > 0.0 ? (int64_t)ceil(span) : 0;
    int64_t *which = emu_arena_alloc(draft->scratch, (size_t)count, sizeof *which);
    if (which == NULL)
        return emu_draft_memory(draft);
    for (int64_t i = 0; i < count; i++)
        which[i] = (int64_t)start + i * (int64_t)step;
    return take_columns(draft, input, which, count, input->rank, results[0]);
}

bool emu_split(emu_draft *draft, emu_value *const *inputs, emu_value *const *results)
{
    emu_value *input = inputs[0];
    const int parts = draft->node->num_outputs;
    int64_t axis = 0, count, first = 0;
    const double *sizes = NULL;
    if (!emu_as_columns(draft, input) || !emu_attribute_int(draft, "axis", &axis) ||
        !check_axis(draft, input, (double)axis) || !slice_list(draft, "split", inputs[1], &sizes, &count))
        return false;
    if (count >= 0 && count != parts)
        return emu_refuse_node(draft, EMU_ERR_FORMAT, "has %d outputs and %lld sizes", parts, (long long)count);
    const int64_t equal = (input->n + parts - 1) / parts; /* the last part may be smaller */
    for (int k = 0; k < parts; k++) {
        const double size = count >= 0 ? sizes[k] : (double)(input->n - first < equal ? input->n - first : equal);
        if (!(size >= 1.0 && size <= (double)(input->n - first)))
            return emu_refuse_node(draft, EMU_ERR_FORMAT, "splits %lld columns in another way than into its outputs",
                                   (long long)input->n);
        if (results[k] != NULL) {
            if (!emu_start_result(draft, results[k], (int64_t)size, input))
                return false;
            memcpy(results[k]->columns, input->columns + first, (size_t)size * sizeof(emu_column));
        }
        first += (int64_t)size;
    }
    return first == input->n || emu_refuse_node(draft, EMU_ERR_FORMAT, "splits %lld of %lld columns", (long long)first,
                                                (long long)input->n);
}

static bool gather(emu_draft *draft, emu_value *input, emu_value *indices, int rank, emu_value *result)
{
    const double *list;
    int64_t count;
    if (!emu_as_integers(draft, indices, &list, &count))
        return false;
    int64_t *which = emu_arena_alloc(draft->scratch, (size_t)count, sizeof *which);
    if (which == NULL)
        return emu_draft_memory(draft);
    for (int64_t i = 0; i < count; i++) {
        const double index = list[i] < 0.0 ? list[i] + (double)input->n : list[i];
        if (!(index >= 0.0 && index < (double)input->n))
            return emu_refuse_node(draft, EMU_ERR_FORMAT, "takes column %g of %lld", list[i], (long long)input->n);
        which[i] = (int64_t)index;
    }
    return take_columns(draft, input, which, count, rank, result);
}

bool emu_gather(emu_draft *draft, emu_value *const *inputs, emu_value *const *results)
{
    emu_value *input = inputs[0], *indices = inputs[1];
    int64_t axis = 0;
    if (!emu_attribute_int(draft, "axis", &axis) || !emu_as_columns(draft, input) ||
        !check_axis(draft, input, (double)axis))
        return false;
    if (indices->rank > 1 || (indices->rank == 0 && input->transposed) || (indices->rank == 0 && input->rank > 2))
        return emu_refuse_node(draft, EMU_ERR_UNSUPPORTED, "its indices have %d dimensions", indices->rank);
    return gather(draft, input, indices, indices->rank == 0 && input->rank > 0 ? input->rank - 1 : input->rank,
                  results[0]);
}

/* PyTorch's x[:, list]: the transposed input by indices [k, 1] */
bool emu_gather_nd(emu_draft *draft, emu_value *const *inputs, emu_value *const *results)
{
    emu_value *input = inputs[0], *indices = inputs[1];
    int64_t batch_dims = 0;
    if (!emu_attribute_int(draft, "batch_dims", &batch_dims) || !emu_as_columns(draft, input))
        return false;
    if (batch_dims != 0 || !input->transposed || indices->rank != 2 || indices->tensor == NULL ||
        indices->tensor->dims[1] != 1)
        return emu_refuse_node(draft, EMU_ERR_UNSUPPORTED, "takes single elements, not columns");
    return gather(draft, input, indices, 2, results[0]);
}

/* ai.onnx.ml: columns by number */
bool emu_extract_features(emu_draft *draft, emu_value *const *inputs, emu_value *const *results)
{
    emu_value *input = inputs[0];
    return emu_as_columns(draft, input) && check_axis(draft, input, -1.0) &&
           gather(draft, input, inputs[1], input->rank, results[0]);
}
