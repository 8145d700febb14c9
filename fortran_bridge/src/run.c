/* A call, from the host's arrays to the host's arrays: what is common to all instruction sets. Samples are taken in tiles,
 * each through the whole network. */
#include "kernels.h"

#include <string.h>

/* ---- NODE_COMBINE ---- */

/* to[i] = a[i] combine b[i], i < n. Nothing beyond n is used: it may hold anything. */
#define COMBINE(NAME, REAL, LANES)                                                                           \
    typedef REAL NAME##_lanes __attribute__((vector_size(16)));                                              \
    static inline NAME##_lanes NAME##_of(emu_combine how, NAME##_lanes a, NAME##_lanes b)                    \
    {                                                                                                        \
        return how == COMBINE_ADD ? a + b : how == COMBINE_SUB ? a - b : how == COMBINE_MUL ? a * b : a / b; \
    }                                                                                                        \
    static void NAME(emu_combine how, const REAL *a, const REAL *b, REAL *to, int64_t n)                     \
    {                                                                                                        \
        NAME##_lanes p, q;                                                                                   \
        int64_t i = 0;                                                                                       \
        for (; i + LANES <= n; i += LANES) { /* of a size that is known: one load, one store */              \
            memcpy(&p, a + i, sizeof p);                                                                     \
            memcpy(&q, b + i, sizeof q);                                                                     \
            p = NAME##_of(how, p, q);                                                                        \
            memcpy(to + i, &p, sizeof p);                                                                    \
        }                                                                                                    \
        if (i < n) {                                                                                         \
            const size_t size = (size_t)(n - i) * sizeof(REAL);                                              \
            q = p = (NAME##_lanes){0} + (REAL)1;                                                             \
            memcpy(&p, a + i, size);                                                                         \
            memcpy(&q, b + i, size);                                                                         \
            p = NAME##_of(how, p, q);                                                                        \
            memcpy(to + i, &p, size);                                                                        \
        }                                                                                                    \
    }
COMBINE(combine_single, float, 4)
COMBINE(combine_double, double, 2)

static void combine(const emu_model *m, const emu_node *node, void *rows, int64_t ld, int64_t n)
{
    if (m->precision == 64)
        combine_double(node->combine, (double *)rows + node->from * ld, (double *)rows + node->from2 * ld,
                       (double *)rows + node->to * ld, n);
    else
        combine_single(node->combine, (float *)rows + node->from * ld, (float *)rows + node->from2 * ld,
                       (float *)rows + node->to * ld, n);
}

/* ---- tiles ---- */

/* A program for the samples of a tile, of which the first is `s` of x and `t` of y */
static void program(const emu_model *m, const emu_program *p, const emu_array *x, int64_t s, const emu_array *y, int64_t t,
                    int count, const emu_tile *tile)
{
    const emu_elementwise *e = m->kernels->elementwise;
    if (tile->batched) {
        const emu_array from = emu_at(x, s, 0), to = emu_at(y, t, 0);
        e->block(p, &from, &to, count, tile->samples, tile->samples % 8 == 0 ? m->kernels->wide : NULL);
        return;
    }
    for (int k = 0; k < count; k++)
        e->sample(p, x, s + k, y, t + k);
}

/* A node that is no layer. `samples`: in rows; of a batched tile all, be they more than the samples that the host has. */
static void other_node(const emu_model *m, const emu_node *node, const emu_array *rows, int samples, const emu_tile *tile)
{
    if (node->kind == NODE_PROGRAM) {
        program(m, &node->program, rows, 0, rows, 0, samples, tile);
    } else if (node->kind == NODE_NORM) {
        m->kernels->elementwise->norm(node, rows, samples);
    } else if (tile->batched) {
        combine(m, node, rows->data, rows->column, node->num_columns * rows->column);
    } else {
        for (int s = 0; s < samples; s++)
            combine(m, node, emu_element(rows, s, 0), 1, node->num_columns);
    }
}

void emu_run(const emu_model *m, int64_t ncol, const emu_array *x, const emu_array *y, void *rows)
{
    const bool single = m->precision != 64;
    const emu_tile *tiles = m->kernels->tiles[!single];
    for (int64_t done = 0; done < ncol;) {
        const int64_t left = ncol - done;
        const emu_tile *tile = &tiles[m->tiles[left < EMU_TILE_TABLE ? left : EMU_TILE_TABLE - 1]];
        const int count = left < tile->samples ? (int)left : tile->samples, samples = tile->batched ? tile->samples : count;
        const emu_array block = tile->batched ? (emu_array){rows, 1, samples, single, true}
                                              : (emu_array){rows, m->num_columns, 1, single, true};
        program(m, &m->input, x, done, &block, 0, count, tile);
        for (int i = 0; i < m->num_nodes;) {
            const emu_dense *dense = tile->dense;
            if (m->nodes[i].kind != NODE_DENSE)
                other_node(m, &m->nodes[i++], &block, samples, tile);
            else
                i = tile->batched ? dense->batch(m, i, rows, samples) : dense->few(m, i, rows, samples);
        }
        program(m, &m->output, &block, 0, y, done, count, tile);
        done += count;
    }
}
