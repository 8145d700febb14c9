/* What can be asked of the library and of a model. */
#include <math.h>
#include <string.h>

#include "backend.h"
#include "error.h"
#include "model.h"

#define STRING_(x) #x
#define STRING(x) STRING_(x)

int emu_abi_version(void)
{
    return EMU_ABI_VERSION;
}

const char *emu_version(void)
{
    return STRING(EMU_VERSION);
}

const char *emu_status_name(emu_status status)
{
    static const char *const names[] = {"EMU_OK",        "EMU_ERR_ARGUMENT", "EMU_ERR_FILE",
                                        "EMU_ERR_FORMAT", "EMU_ERR_UNSUPPORTED", "EMU_ERR_LIMIT",
                                        "EMU_ERR_MEMORY", "EMU_ERR_MISMATCH", "EMU_ERR_CHECK",
                                        "EMU_ERR_BACKEND"};
    const unsigned i = (unsigned)status;
    return i < sizeof names / sizeof names[0] ? names[i] : "unknown status";
}

/* ---- accessors ---- */

const char *emu_isa(const emu_model *m)
{
    return m == NULL ? NULL : m->backend == NULL ? m->kernels->name : "";
}

const char *emu_backend(const emu_model *m)
{
    return m == NULL ? NULL : m->backend == NULL ? "native" : m->backend->name;
}

int emu_precision(const emu_model *m)
{
    return m != NULL ? m->precision : 0;
}

int64_t emu_num_inputs(const emu_model *m)
{
    return m != NULL ? m->num_inputs : 0;
}

int64_t emu_num_outputs(const emu_model *m)
{
    return m != NULL ? m->num_outputs : 0;
}

int64_t emu_num_layers(const emu_model *m)
{
    return m != NULL ? m->num_layers : 0;
}

int64_t emu_layer_width(const emu_model *m, int64_t layer)
{
    return m != NULL && layer >= 0 && layer < m->num_layers ? m->layers[layer].num_outputs : -1;
}

int64_t emu_num_parameters(const emu_model *m)
{
    return m != NULL ? m->num_parameters : 0;
}

#define ACCESSORS(side)                                                                                      \
    const char *emu_##side##_name(const emu_model *m, int64_t i)                                             \
    {                                                                                                        \
        return m != NULL && i >= 0 && i < m->num_##side##s ? m->side##_names[i] : NULL;                      \
    }                                                                                                        \
    const char *emu_##side##_unit(const emu_model *m, int64_t i)                                             \
    {                                                                                                        \
        return m != NULL && i >= 0 && i < m->num_##side##s ? m->side##_units[i] : NULL;                      \
    }                                                                                                        \
    double emu_##side##_min(const emu_model *m, int64_t i)                                                   \
    {                                                                                                        \
        return m != NULL && i >= 0 && i < m->num_##side##s ? m->side##_min[i] : (double)NAN;                 \
    }                                                                                                        \
    double emu_##side##_max(const emu_model *m, int64_t i)                                                   \
    {                                                                                                        \
        return m != NULL && i >= 0 && i < m->num_##side##s ? m->side##_max[i] : (double)NAN;                 \
    }                                                                                                        \
    int64_t emu_##side##_index(const emu_model *m, const char *name)                                         \
    {                                                                                                        \
        for (int64_t i = 0; m != NULL && name != NULL && i < m->num_##side##s; i++) {                        \
            if (strcmp(m->side##_names[i], name) == 0)                                                       \
                return i;                                                                                    \
        }                                                                                                    \
        return -1;                                                                                           \
    }
ACCESSORS(input)
ACCESSORS(output)

const char *emu_metadata(const emu_model *m, const char *key)
{
    for (int i = 0; m != NULL && key != NULL && i < m->num_metadata; i++) {
        if (strcmp(m->metadata_keys[i], key) == 0)
            return m->metadata_values[i];
    }
    return NULL;
}

/* ---- names and units of the host against the model's ---- */

static emu_status require(const emu_model *m, const char *side, int64_t n, const char *const *names,
                          const char *const *units, int64_t expected, const char *const *model_names,
                          const char *const *model_units, char *message, size_t message_size)
{
    emu_error error = emu_error_start(message, message_size);
    if (m == NULL || n < 0 || (names == NULL && n > 0)) {
        emu_fail(&error, EMU_ERR_ARGUMENT, "emu_require_%ss: model or names is NULL, or n is negative", side);
        return error.status;
    }
    emu_shown host, file;
#define SHOW(buffer, text) emu_show(&buffer, (emu_text){text, strlen(text)})
    for (int64_t i = 0; i < n && i < expected && error.status == EMU_OK; i++) {
        const char *name = names[i] != NULL ? names[i] : "";
        if (strcmp(name, model_names[i]) != 0)
            emu_fail(&error, EMU_ERR_MISMATCH,
                     "%s %lld: the host has '%s', the model expects '%s'; fill the arrays in the model's order", side,
                     (long long)i + 1, SHOW(host, name), SHOW(file, model_names[i]));
        const char *unit = units != NULL && units[i] != NULL ? units[i] : "";
        if (units != NULL && strcmp(unit, model_units[i]) != 0) {
            char label[120];
            strncpy(label, SHOW(file, name), sizeof label - 1);
            label[sizeof label - 1] = '\0';
            emu_fail(&error, EMU_ERR_MISMATCH,
                     "%s %lld ('%s'): the host has the unit '%s', the model expects '%s'; convert the values", side,
                     (long long)i + 1, label, SHOW(host, unit), SHOW(file, model_units[i]));
        }
    }
    if (n != expected)
        emu_fail(&error, EMU_ERR_MISMATCH, "the host has %lld %ss, the model %lld; %s %lld is '%s'", (long long)n, side,
                 (long long)expected, side, (long long)(n < expected ? n : expected) + 1,
                 n < expected ? SHOW(file, model_names[n]) : (names[expected] ? SHOW(host, names[expected]) : ""));
#undef SHOW
    return error.status;
}

emu_status emu_require_inputs(const emu_model *m, int64_t n, const char *const *names, const char *const *units,
                              char *message, size_t message_size)
{
    return require(m, "input", n, names, units, emu_num_inputs(m), m ? m->input_names : NULL,
                   m ? m->input_units : NULL, message, message_size);
}

emu_status emu_require_outputs(const emu_model *m, int64_t n, const char *const *names, const char *const *units,
                               char *message, size_t message_size)
{
    return require(m, "output", n, names, units, emu_num_outputs(m), m ? m->output_names : NULL,
                   m ? m->output_units : NULL, message, message_size);
}
