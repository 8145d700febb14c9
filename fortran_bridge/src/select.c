/* Which kernels to use on this machine, and which mix of tiles for which number of samples. */
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "model.h"

#if EMU_WITH_X86
static bool has_avx512(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma");
}

static bool has_avx2(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}
#endif

static bool always(void)
{
    return true;
}

static const struct {
    const emu_kernels *kernels;
    bool (*available)(void);
} choices[] = {
#if EMU_WITH_X86
    {&emu_kernels_avx512, has_avx512},
    {&emu_kernels_avx2, has_avx2},
#endif
    {&emu_kernels_portable, always},
};

const emu_kernels *emu_select_kernels(emu_error *error)
{
    const char *forced = getenv("LIBEMULATOR_ISA");
    if (forced != NULL && *forced == '\0')
        forced = NULL;
    for (size_t i = 0; i < sizeof choices / sizeof choices[0]; i++) {
        if (forced != NULL && strcmp(forced, choices[i].kernels->name) != 0)
            continue;
        if (choices[i].available())
            return choices[i].kernels;
        if (forced != NULL) {
            emu_fail(error, EMU_ERR_ARGUMENT,
                     "LIBEMULATOR_ISA asks for '%s', which this machine does not have; unset it", forced);
            return NULL;
        }
    }
    emu_shown shown;
    emu_fail(error, EMU_ERR_ARGUMENT,
             "LIBEMULATOR_ISA is '%s', expected avx512, avx2 or portable (as far as this build has them); unset it",
             emu_show(&shown, (emu_text){forced, strlen(forced)}));
    return NULL;
}

/* Work of a program beyond normalising, for one float64 vector of samples or of columns */
static double program_cost(const emu_program *program, double vectors_per_column, double lanes)
{
    double cost = 0.0;
    for (int g = 0; g < program->num_groups; g++) {
        const emu_group *group = &program->groups[g];
        double each = 0.0;
        for (int op = 0; op < group->num_ops; op++)
            each += group->ops[op] >= OP_LOG && group->ops[op] <= OP_TANH ? 30.0 : 3.0;
        cost += each * (vectors_per_column > 0.0 ? group->num_columns * vectors_per_column
                                                 : group->padded / (lanes / 2.0)); /* columns in lanes */
    }
    return cost;
}

/* Estimated cost of one tile, in the time of one vector multiply-add. The constants are fitted to eight networks
 * (224 to 1.8 million weights) on a Zen 4 core; a fit within 15 %. Only ratios matter, and only for speed. */
static double tile_cost(const emu_model *m, const emu_tile *tile)
{
    const double lanes = m->kernels->lanes, S = tile->samples, vectors = S / lanes;
    const double overhead = 16.0 / lanes; /* narrower vectors do more multiply-adds in the same time */
    const double columns = (double)(m->num_inputs + m->num_outputs);
    double cost = 0.0, fixed = tile->batched ? 160.0 + 12.0 * columns * vectors : 100.0 + S * (30.0 + 3.0 * columns);
    for (int l = 0; l < m->num_layers; l++) {
        const emu_layer *layer = &m->layers[l];
        const double K = layer->num_inputs, N = layer->num_outputs;
        const bool narrow = layer->order == ORDER_NARROW;
        const double padded = narrow ? (layer->num_outputs + 3) / 4 * 4 : (layer->num_outputs + 15) / 16 * 16;
        if (tile->batched) {
            /* a single vector of samples reloads the weights for every multiply-add */
            cost += K * N * vectors * (vectors < 2.0 ? 1.03 + 0.1 * (overhead - 1.0) : 1.02);
            cost += narrow ? 12.5 * padded * vectors : 1.5 * N * vectors; /* fold and store */
            fixed += 10.0;
        } else {
            /* weights stream by once a tile: two vectors' bytes a multiply-add from L2, fewer from L3 */
            const double bytes_per_step = (double)m->num_parameters * 4.0 > 1e6 ? 1.25 * lanes : 2.0 * lanes;
            const double stream = (double)m->num_parameters * 4.0 > 3e4 ? K * N * 4.0 / bytes_per_step : 0.0;
            const double products = K * padded * S / lanes;
            cost += (products > stream ? products : stream) + 3.5 * padded / lanes * S;
            fixed += 50.0; /* a layer waits for the last sum of the one before */
        }
        if (l > 0)
            cost += program_cost(&layer->program, tile->batched ? 2.0 * vectors : 0.0, lanes);
    }
    const double programs = program_cost(&m->layers[0].program, tile->batched ? 2.0 * vectors : 0.0, lanes) +
                            program_cost(&m->output, tile->batched ? 2.0 * vectors : 0.0, lanes);
    return cost + programs * (tile->batched ? 1.0 : S) + fixed * overhead;
}

/* tiles[n]: what to take first of n samples left, so that the whole is cheapest. Beyond the table, the largest. */
void emu_choose_tiles(emu_model *m)
{
    const emu_kernels *kernels = m->kernels;
    double best[EMU_TILE_TABLE], cost[16];
    best[0] = 0.0;
    m->tiles[0] = 0;
    for (int t = 0; t < kernels->num_tiles; t++)
        cost[t] = tile_cost(m, &kernels->tiles[t]);
    for (int n = 1; n < EMU_TILE_TABLE; n++) {
        best[n] = -1.0;
        for (int t = 0; t < kernels->num_tiles; t++) {
            const emu_tile *tile = &kernels->tiles[t];
            if (!tile->batched && tile->samples > n)
                continue; /* a batch kernel may run partly filled, the others run full */
            const double total = cost[t] + best[n > tile->samples ? n - tile->samples : 0];
            if (best[n] < 0.0 || total < best[n]) {
                best[n] = total;
                m->tiles[n] = (uint8_t)t;
            }
        }
    }
    m->tiles[EMU_TILE_TABLE - 1] = 0;
}
