#define _GNU_SOURCE /* strtod_l */
#include "metadata.h"

#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#if defined(__APPLE__)
#include <xlocale.h>
#endif

static const double DEFAULT_TOLERANCE = 1e-5; /* libemulator.h, emu_self_check */

typedef struct {
    emu_model *model;
    emu_error *error;
    locale_t c_locale; /* numbers have a point, whatever locale the host has set */
} context;

static bool out_of_memory(emu_error *error)
{
    return emu_fail(error, EMU_ERR_MEMORY, "out of memory while reading the metadata");
}

/* A copy with a terminating 0 */
static char *copy_text(emu_arena *arena, const char *data, size_t size)
{
    char *copy = emu_arena_alloc(arena, size + 1, 1);
    if (copy != NULL && size > 0)
        memcpy(copy, data, size);
    return copy;
}

static bool read_entries(const onnx_model *onnx, context *c)
{
    emu_model *m = c->model;
    const size_t n = (size_t)onnx->num_metadata;
    m->metadata_keys = emu_arena_alloc(&m->arena, n, sizeof(char *));
    m->metadata_values = emu_arena_alloc(&m->arena, n, sizeof(char *));
    if (m->metadata_keys == NULL || m->metadata_values == NULL)
        return out_of_memory(c->error);
    for (size_t i = 0; i < n; i++) {
        const onnx_metadata *entry = &onnx->metadata[i];
        m->metadata_keys[i] = copy_text(&m->arena, entry->key.data, entry->key.size);
        m->metadata_values[i] = copy_text(&m->arena, entry->value.data, entry->value.size);
        if (m->metadata_keys[i] == NULL || m->metadata_values[i] == NULL)
            return out_of_memory(c->error);
        m->num_metadata++;
    }
    return true;
}

static const char *entry(const context *c, const char *key)
{
    return emu_metadata(c->model, key);
}

static int64_t count_lines(const char *text)
{
    if (*text == '\0')
        return 0;
    int64_t n = 1;
    for (const char *p = text; *p != '\0'; p++)
        n += *p == '\n' && p[1] != '\0'; /* a newline at the end starts no line */
    return n;
}

static bool check_count(context *c, const char *key, int64_t found, int64_t expected)
{
    return found == expected ||
           emu_fail(c->error, EMU_ERR_FORMAT, "metadata '%s' has %lld lines, the graph has %lld columns", key,
                    (long long)found, (long long)expected);
}

/* n lines of text; without such an entry, prefix_1, prefix_2, ... or "" if prefix is NULL */
static bool read_lines(context *c, const char *key, int32_t n, const char *prefix, const char ***result)
{
    emu_arena *arena = &c->model->arena;
    const char **lines = emu_arena_alloc(arena, (size_t)n, sizeof(char *));
    const char *text = entry(c, key);
    *result = lines;
    if (lines == NULL)
        return out_of_memory(c->error);
    /* units may all be empty, which as text is n - 1 newlines or nothing */
    if (text != NULL && !(prefix == NULL && *text == '\0')) {
        int64_t found = 1;
        for (const char *p = text; *p != '\0'; p++)
            found += *p == '\n';
        if (found == n + 1 && text[strlen(text) - 1] == '\n')
            found = n;
        if (!check_count(c, key, found, n))
            return false;
    } else {
        text = NULL;
    }
    char *all = text != NULL ? copy_text(arena, text, strlen(text)) : NULL;
    if (text != NULL && all == NULL)
        return out_of_memory(c->error);
    for (int32_t i = 0; i < n; i++) {
        if (text != NULL) {
            lines[i] = all;
            all += strcspn(all, "\n");
            if (*all == '\n')
                *all++ = '\0';
        } else if (prefix != NULL) {
            char name[32];
            snprintf(name, sizeof name, "%s_%d", prefix, (int)i + 1);
            lines[i] = copy_text(arena, name, strlen(name));
            if (lines[i] == NULL)
                return out_of_memory(c->error);
        } else {
            lines[i] = "";
        }
    }
    return true;
}

/* `rows` lines of `columns` numbers each, nothing else */
static bool read_numbers(context *c, const char *key, const char *text, int64_t rows, int64_t columns, double *to)
{
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t i = 0; i < columns; i++) {
            char *end;
            while (*text == ' ' || *text == '\t' || *text == '\r')
                text++;
            *to = *text == '\n' || *text == '\0' ? (end = (char *)text, 0.0) : strtod_l(text, &end, c->c_locale);
            if (end == text) {
                emu_shown shown;
                const emu_text found = {text, strcspn(text, " \n")};
                return emu_fail(c->error, EMU_ERR_FORMAT,
                                "metadata '%s', line %lld: found '%s', expected number %lld of %lld",
                                key, (long long)r + 1, emu_show(&shown, found), (long long)i + 1, (long long)columns);
            }
            to++;
            text = end;
        }
        while (*text == ' ' || *text == '\t' || *text == '\r')
            text++;
        if (*text != '\n' && *text != '\0')
            return emu_fail(c->error, EMU_ERR_FORMAT, "metadata '%s', line %lld: more than %lld numbers", key,
                            (long long)r + 1, (long long)columns);
        text += *text == '\n';
    }
    return true;
}

/* n numbers; NaN without such an entry */
static bool read_range(context *c, const char *key, int32_t n, const double **result)
{
    double *values = emu_arena_alloc(&c->model->arena, (size_t)n, sizeof *values);
    const char *text = entry(c, key);
    *result = values;
    if (values == NULL)
        return out_of_memory(c->error);
    if (text != NULL)
        return check_count(c, key, count_lines(text), n) && read_numbers(c, key, text, n, 1, values);
    for (int32_t i = 0; i < n; i++)
        values[i] = (double)NAN;
    return true;
}

static bool check_ranges(context *c, const char *side, int32_t n, const char *const *names, const double *low,
                         const double *high)
{
    emu_shown shown;
    for (int32_t i = 0; i < n; i++)
        if (isgreater(low[i], high[i]))
            return emu_fail(c->error, EMU_ERR_FORMAT,
                            "metadata 'libemulator.%s_min' is %g for '%s', more than 'libemulator.%s_max', %g", side,
                            low[i], emu_show(&shown, (emu_text){names[i], strlen(names[i])}), side, high[i]);
    return true;
}

static bool read_checks(context *c)
{
    emu_model *m = c->model;
    const char *x = entry(c, "libemulator.check_inputs"), *y = entry(c, "libemulator.check_outputs");
    const char *tolerance = entry(c, "libemulator.check_tolerance");
    m->check_tolerance = DEFAULT_TOLERANCE;
    if (tolerance != NULL && !read_numbers(c, "libemulator.check_tolerance", tolerance, 1, 1, &m->check_tolerance))
        return false;
    if (!isgreaterequal(m->check_tolerance, 0.0))
        return emu_fail(c->error, EMU_ERR_FORMAT,
                        "metadata 'libemulator.check_tolerance' is %g, expected a number >= 0",
                        m->check_tolerance);
    if (x == NULL && y == NULL)
        return true;
    const int64_t n = x != NULL ? count_lines(x) : 0, ny = y != NULL ? count_lines(y) : 0;
    if (n != ny)
        return emu_fail(c->error, EMU_ERR_FORMAT,
                        "metadata has %lld check inputs ('libemulator.check_inputs') but %lld check outputs",
                        (long long)n, (long long)ny);
    /* every number takes at least two bytes of text: a wide graph cannot make a short text cost much */
    if (n > 0 && ((size_t)n * (size_t)m->num_inputs > strlen(x) || (size_t)n * (size_t)m->num_outputs > strlen(y)))
        return emu_fail(c->error, EMU_ERR_FORMAT,
                        "metadata 'libemulator.check_inputs' or 'libemulator.check_outputs' holds fewer numbers a "
                        "line than the graph has columns (%d inputs, %d outputs)",
                        (int)m->num_inputs, (int)m->num_outputs);
    double *inputs = emu_arena_alloc(&m->arena, (size_t)n * (size_t)m->num_inputs, sizeof *inputs);
    double *outputs = emu_arena_alloc(&m->arena, (size_t)n * (size_t)m->num_outputs, sizeof *outputs);
    if (inputs == NULL || outputs == NULL)
        return out_of_memory(c->error);
    m->num_checks = n;
    m->check_inputs = inputs;
    m->check_outputs = outputs;
    return n == 0 || (read_numbers(c, "libemulator.check_inputs", x, n, m->num_inputs, inputs) &&
                      read_numbers(c, "libemulator.check_outputs", y, n, m->num_outputs, outputs));
}

bool emu_read_metadata(const onnx_model *onnx, emu_model *model, emu_error *error)
{
    context c = {model, error, newlocale(LC_ALL_MASK, "C", (locale_t)0)};
    if (c.c_locale == (locale_t)0)
        return out_of_memory(error);
    bool good = read_entries(onnx, &c);
    const char *schema = good ? entry(&c, "libemulator.schema") : NULL;
    if (schema != NULL && strcmp(schema, "1") != 0) {
        emu_shown shown;
        good = emu_fail(error, EMU_ERR_UNSUPPORTED,
                        "metadata 'libemulator.schema' is '%s', this library (%s) reads '1'; use a newer library",
                        emu_show(&shown, (emu_text){schema, strlen(schema)}), emu_version());
    }
    good = good && read_lines(&c, "libemulator.input_names", model->num_inputs, "x", &model->input_names) &&
           read_lines(&c, "libemulator.input_units", model->num_inputs, NULL, &model->input_units) &&
           read_lines(&c, "libemulator.output_names", model->num_outputs, "y", &model->output_names) &&
           read_lines(&c, "libemulator.output_units", model->num_outputs, NULL, &model->output_units) &&
           read_range(&c, "libemulator.input_min", model->num_inputs, &model->input_min) &&
           read_range(&c, "libemulator.input_max", model->num_inputs, &model->input_max) &&
           read_range(&c, "libemulator.output_min", model->num_outputs, &model->output_min) &&
           read_range(&c, "libemulator.output_max", model->num_outputs, &model->output_max) &&
           check_ranges(&c, "input", model->num_inputs, model->input_names, model->input_min, model->input_max) &&
           check_ranges(&c, "output", model->num_outputs, model->output_names, model->output_min, model->output_max) &&
           read_checks(&c);
    freelocale(c.c_locale);
    return good;
}
