/* Which kernels to use on this machine, and which mix of tiles for which number of samples. */
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "kernels.h"

#if EMU_WITH_X86
#include <cpuid.h>

/* By hand: __builtin_cpu_supports brings 4 KB of tables. The registers must be saved by the system too (xgetbv). */
static bool has(unsigned leaf_7_ebx, unsigned registers)
{
    const unsigned fma = 1u << 12, osxsave = 1u << 27, needed = fma | osxsave;
    unsigned a, b, c, d, saved, high;
    if (!__get_cpuid(1, &a, &b, &c, &d) || (c & needed) != needed)
        return false;
    __asm__("xgetbv" : "=a"(saved), "=d"(high) : "c"(0));
    return (saved & registers) == registers && __get_cpuid_count(7, 0, &a, &b, &c, &d) &&
           (b & leaf_7_ebx) == leaf_7_ebx;
}

static const unsigned AVX2 = 1u << 5, AVX512 = 1u << 5 | 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31; /* F, DQ, BW, VL */

static bool has_avx512(void)
{
    return has(AVX512, 0xe6); /* opmasks and all of zmm beside ymm */
}

static bool has_avx2(void)
{
    return has(AVX2, 0x6);
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
#if EMU_WITH_NEON
    {&emu_kernels_neon, always},
#endif
    {&emu_kernels_portable, always},
};

const emu_kernels *emu_select_kernels(const char *isa, emu_error *error)
{
    const char *forced = isa, *by = "the option isa";
    if (forced == NULL || *forced == '\0') {
        forced = getenv("LIBEMULATOR_ISA");
        by = "LIBEMULATOR_ISA";
    }
    if (forced != NULL && *forced == '\0')
        forced = NULL;
    for (size_t i = 0; i < sizeof choices / sizeof choices[0]; i++) {
        if (forced != NULL && strcmp(forced, choices[i].kernels->name) != 0)
            continue;
        if (choices[i].available())
            return choices[i].kernels;
        if (forced != NULL) {
            emu_fail(error, EMU_ERR_ARGUMENT, "%s asks for '%s', which this machine does not have; leave it out", by,
                     forced);
            return NULL;
        }
    }
    emu_shown shown;
    emu_fail(error, EMU_ERR_ARGUMENT,
             "%s is '%s', expected avx512, avx2, neon or portable (as far as this build has them); leave it out", by,
             emu_show(&shown, (emu_text){forced, strlen(forced)}));
    return NULL;
}

/* ---- the cost of a tile ----
 *
 * In the time of one multiply-add of a vector. Only ratios matter, and only for speed. Fitted by hand to three networks (3,000,
 * 7,460 and 118,000 parameters) on a Zen 4 core, whose L1 cache gives one vector in two multiply-adds. */

/* Of one vector of float64 numbers going through a program, beyond reading and writing it */
static double group_cost(const emu_group *group)
{
    double cost = 1.0;
    for (int op = 0; op < group->num_ops; op++) {
        const bool costly = (group->ops[op] >= OP_SQRT && group->ops[op] <= OP_TANH) || group->ops[op] == OP_ERF ||
                            (group->ops[op] >= OP_ELU && group->ops[op] <= OP_SOFTPLUS);
        cost += costly ? 30.0 : 2.0;
    }
    return cost;
}

static double program_cost(const emu_program *program, const emu_tile *tile, double doubles)
{
    double cost = 0.0;
    for (int g = 0; g < program->num_groups; g++) {
        const emu_group *group = &program->groups[g];
        const double each = group_cost(group);
        if (tile->batched)
            cost += group->num_columns * (6.0 + (each + 1.5) * tile->samples / doubles);
        else
            cost += tile->samples * (12.0 + (group->num_ops == 0 ? 0.0 : group->padded / doubles * (each + 2.0)) +
                                     group->num_columns);
    }
    return cost;
}

static double layer_cost(const emu_model *m, const emu_layer *layer, const emu_tile *tile, double lanes)
{
    const double K = layer->num_inputs, N = layer->num_outputs, S = tile->samples, vectors = S / lanes;
    const double padded = (layer->num_outputs + EMU_PANEL - 1) / EMU_PANEL * EMU_PANEL;
    const double activation = layer->activation > ACT_RELU ? 25.0 : 0.0;
    if (tile->batched) {
        const double blocks = (layer->num_outputs + 3) / 4 * (vectors < 2.0 ? 0.5 : 1.0);
        const double loads = lanes == 8.0 && vectors < 2.0 ? 1.25 : 1.0; /* AVX2: a load for each product, 16 registers */
        return 0.965 * loads * K * N * vectors + blocks * layer->parts * 6.0 + N * vectors * (layer->parts + 1.0 + activation);
    }
    if (layer->parts == 16)
        return S * ((K + 15) / 16 * 4.5 * 16.0 / lanes + 25.0 + activation / 4.0);
    /* a vector of weights costs up to two multiply-adds to load, a number to broadcast half of one, or one where they are few */
    const bool one = tile->samples == 1, two = tile->samples == 2;
    const double weights = padded / lanes, panels = padded / EMU_PANEL;
    const double numbers = one || two ? (panels < 4.0 ? 1.0 : panels / 4.0) : 0.5 * panels;
    const double loads = K * ((one ? 1.7 : 2.0) * weights + S * numbers), products = K * weights * S * 1.02;
    const double bytes = (double)m->num_parameters * 4.0;
    const double far = bytes > 1e6 ? 1.05 : 1.0; /* L3 */
    return (products > loads * far ? products : loads * far) + 25.0 +
           weights * S * (3.0 + activation + (one ? 0.0 : layer->parts));
}

static double tile_cost(const emu_model *m, const emu_tile *tile)
{
    const bool is_double = m->precision == 64;
    const double lanes = tile->dense->lanes, doubles = m->kernels->elementwise->lanes;
    /* a call's own cost, in multiply-adds; narrower vectors do more of them in the same time */
    double cost = (tile->batched ? 60.0 : 90.0) * (is_double ? 8.0 : 16.0) / lanes;
    cost += program_cost(&m->input, tile, doubles) + program_cost(&m->output, tile, doubles);
    for (int i = 0; i < m->num_nodes; i++) {
        const emu_node *node = &m->nodes[i];
        if (node->kind == NODE_DENSE)
            cost += layer_cost(m, node->layer, tile, lanes);
        else if (node->kind == NODE_PROGRAM)
            cost += program_cost(&node->program, tile, doubles);
        else
            cost += node->num_columns * tile->samples / doubles * (node->kind == NODE_NORM ? 6.0 : 1.0) + 20.0;
    }
    return cost;
}

/* tiles[n]: what to take first of n samples left, so that the whole is cheapest; any tile may run partly filled, so
 * that n samples never cost more than n + 1. Beyond the table, the largest. */
void emu_choose_tiles(emu_model *m)
{
    const int precision = m->precision == 64, num_tiles = m->kernels->num_tiles[precision];
    const emu_tile *tiles = m->kernels->tiles[precision];
    double best[EMU_TILE_TABLE], cost[24];
    best[0] = 0.0;
    m->tiles[0] = 0;
    for (int t = 0; t < num_tiles; t++)
        cost[t] = tile_cost(m, &tiles[t]);
    for (int n = 1; n < EMU_TILE_TABLE; n++) {
        best[n] = -1.0;
        for (int t = 0; t < num_tiles; t++) {
            double total = cost[t] + best[n > tiles[t].samples ? n - tiles[t].samples : 0];
            if (n < tiles[t].samples) /* columns whose last vectors are put together */
                total += 15.0 * (m->num_inputs + m->num_outputs);
            if (best[n] < 0.0 || total < best[n]) {
                best[n] = total;
                m->tiles[n] = (uint8_t)t;
            }
        }
    }
    m->tiles[EMU_TILE_TABLE - 1] = 0;
}
