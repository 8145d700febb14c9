/* A model's nodes and a whole call, included twice like kernel_dense.h. */

INLINE VEC LOCAL(combined)(emu_combine combine, VEC a, VEC b)
{
    switch (combine) {
    case COMBINE_ADD: return OP(add)(a, b);
    case COMBINE_SUB: return OP(sub)(a, b);
    case COMBINE_MUL: return OP(mul)(a, b);
    default: return OP(div)(a, b);
    }
}

/* to[i] = a[i] combine b[i], i < n. Nothing beyond n is used: it may hold anything. */
COLD void LOCAL(combine)(emu_combine combine, const REAL *a, const REAL *b, REAL *to, int64_t n)
{
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        OP(store)(to + i, LOCAL(combined)(combine, OP(load)(a + i), OP(load)(b + i)));
    if (i < n) {
        const size_t rest = (size_t)(n - i) * sizeof *to;
        REAL p[LANES] ALIGNED, q[LANES] ALIGNED;
        OP(store)(p, OP(set)(1));
        OP(store)(q, OP(set)(1));
        memcpy(p, a + i, rest);
        memcpy(q, b + i, rest);
        OP(store)(p, LOCAL(combined)(combine, OP(load)(p), OP(load)(q)));
        memcpy(to + i, p, rest);
    }
}

/* For a block of samples in lanes: the row is [column][vectors * LANES] */
static void LOCAL(run_batch)(const emu_model *m, REAL *row, int vectors)
{
    const int64_t ld = vectors * LANES;
    const array row_array = {row, 1, ld, sizeof(REAL) == sizeof(float), true};
    for (int i = 0; i < m->num_nodes; i++) {
        const emu_node *node = &m->nodes[i];
        const REAL *from = row + node->from * ld;
        REAL *to = row + node->to * ld;
        switch (node->kind) {
        case NODE_DENSE: LOCAL(batch_layer)(node->layer, from, to, vectors); break;
        case NODE_PROGRAM: program_block(&node->program, &row_array, &row_array, (int)ld, (int)ld); break;
        case NODE_COMBINE:
            LOCAL(combine)(node->combine, from, row + node->from2 * ld, to, node->num_columns * ld);
            break;
        case NODE_NORM: norm_block(node, &row_array, (int)ld); break;
        }
    }
}

#if FEW_1
/* For a few samples, each with a row of its own: [sample][column] */
static void LOCAL(run_few)(const emu_model *m, REAL *rows, int samples)
{
    const int64_t ld = m->num_columns;
    for (int i = 0; i < m->num_nodes; i++) {
        const emu_node *node = &m->nodes[i];
        if (node->kind == NODE_DENSE) {
            LOCAL(few_layer)(node->layer, rows + node->from, rows + node->to, ld, samples);
            continue;
        }
        for (int s = 0; s < samples; s++) {
            REAL *row = rows + s * ld;
            const array row_array = {row, ld, 1, sizeof(REAL) == sizeof(float), true};
            if (node->kind == NODE_PROGRAM)
                program_sample(&node->program, &row_array, &row_array);
            else if (node->kind == NODE_COMBINE)
                LOCAL(combine)(node->combine, row + node->from, row + node->from2, row + node->to, node->num_columns);
            else
                norm_sample(node, &row_array);
        }
    }
}

#endif

static const emu_tile LOCAL(tiles)[] = {
#if BATCH_3
    {3 * LANES, true},
#endif
#if BATCH_2
    {2 * LANES, true},
#endif
    {LANES, true},
#if FEW_8
    {8, false},
#endif
#if FEW_6
    {6, false},
#endif
#if FEW_4
    {4, false},
#endif
#if FEW_3
    {3, false},
#endif
#if FEW_2
    {2, false},
#endif
#if FEW_1
    {1, false},
#endif
};
