/* From the caller's arrays to the caller's arrays; included once for REAL double and once for REAL float. */

#define CONCAT_(a, b) a##_##b
#define CONCAT(a, b) CONCAT_(a, b)
#define LOCAL(name) CONCAT(name, REAL)

/* x -> rows. Lanes beyond `count` repeat the last sample: a valid value, whatever valid means. */
static void LOCAL(load_block)(const emu_program *program, const REAL *x, int64_t xs, int64_t xf, int count, int ld,
                              float *rows)
{
    const int n = ld / VW;
    for (int g = 0; g < program->num_groups; g++) {
        const emu_group *group = &program->groups[g];
        for (int32_t c = 0; c < group->num_columns; c++) {
            const REAL *column = x + group->source[c] * xf;
            float *row = rows + (int64_t)group->target[c] * ld;
            REAL gathered[3 * VW] ALIGNED;
            if (xs != 1 || count < ld) {
                for (int i = 0; i < count; i++)
                    gathered[i] = column[i * xs];
                for (int i = count; i < ld; i++)
                    gathered[i] = gathered[count - 1];
                column = gathered;
            }
            if (only_normalises(group)) { /* the common case, without the detour through memory */
                const vd a = vd_set(group->constants[c]), b = vd_set(group->constants[group->padded + c]);
                for (int i = 0; i < n; i++) {
                    vd low = vd_mul(vd_sub(LOAD_VD(column + 2 * i * VD), a), b);
                    vd high = vd_mul(vd_sub(LOAD_VD(column + (2 * i + 1) * VD), a), b);
                    vf_store(row + i * VW, vf_round(low, high));
                }
                continue;
            }
            vd v[BLOCK_VD];
            for (int i = 0; i < 2 * n; i++)
                v[i] = LOAD_VD(column + i * VD);
            apply_block(group, c, v, 2 * n);
            for (int i = 0; i < n; i++)
                vf_store(row + i * VW, vf_round(v[2 * i], v[2 * i + 1]));
        }
    }
}

/* rows -> y, the first `count` samples */
static void LOCAL(store_block)(const emu_program *program, const float *rows, int count, int ld, REAL *y, int64_t ys,
                               int64_t yf)
{
    for (int g = 0; g < program->num_groups; g++) {
        const emu_group *group = &program->groups[g];
        for (int32_t c = 0; c < group->num_columns; c++) {
            const float *row = rows + (int64_t)group->source[c] * ld;
            REAL *column = y + group->target[c] * yf;
            vd v[BLOCK_VD];
            for (int i = 0; i * VD < ld; i++)
                v[i] = vd_load_float(row + i * VD);
            apply_block(group, c, v, ld / VD);
            if (ys == 1 && count == ld) {
                for (int i = 0; i * VD < ld; i++)
                    STORE_VD(column + i * VD, v[i]);
            } else {
                REAL gathered[3 * VW] ALIGNED;
                for (int i = 0; i * VD < ld; i++)
                    STORE_VD(gathered + i * VD, v[i]);
                for (int i = 0; i < count; i++)
                    column[i * ys] = gathered[i];
            }
        }
    }
}

/* One sample, columns in lanes */
static void LOCAL(load_sample)(const emu_program *program, const REAL *x, int64_t xf, float *row)
{
    for (int g = 0; g < program->num_groups; g++) {
        const emu_group *group = &program->groups[g];
        const bool normalise = only_normalises(group);
        for (int32_t c = 0; c < group->num_columns; c += VD) {
            vd v = GATHER(x, group->source + c, xf);
            if (normalise)
                v = vd_mul(vd_sub(v, vd_load(group->constants + c)), vd_load(group->constants + group->padded + c));
            else
                v = apply_columns(group, c, v);
            if (group->adjacent && c + VD <= group->num_columns) {
                vd_store_float(row + group->target[c], v);
            } else {
                float result[VD];
                vd_store_float(result, v);
                for (int i = 0; i < VD && c + i < group->num_columns; i++)
                    row[group->target[c + i]] = result[i];
            }
        }
    }
}

static void LOCAL(store_sample)(const emu_program *program, const float *row, REAL *y, int64_t yf)
{
    for (int g = 0; g < program->num_groups; g++) {
        const emu_group *group = &program->groups[g];
        for (int32_t c = 0; group->num_ops == 0 && c < group->num_columns; c++)
            y[group->target[c] * yf] = (REAL)row[group->source[c]];
        for (int32_t c = 0; group->num_ops > 0 && c < group->num_columns; c += VD) {
            REAL result[VD];
            STORE_VD(result, apply_columns(group, c, vd_gather_float(row, group->source + c, 1)));
            for (int i = 0; i < VD && c + i < group->num_columns; i++)
                y[group->target[c + i] * yf] = result[i];
        }
    }
}

static void INFER(const emu_model *m, int64_t ncol, const REAL *x, int64_t xs, int64_t xf, REAL *y, int64_t ys,
                  int64_t yf, void *scratch)
{
    const int64_t width = m->max_width;
    float *a = scratch, *b = a + width * EMU_MAX_BLOCK;
    const emu_program *input = &m->layers[0].program;
    for (int64_t done = 0; done < ncol;) {
        const int64_t left = ncol - done;
        const emu_tile tile = tiles[m->tiles[left < EMU_TILE_TABLE ? left : EMU_TILE_TABLE - 1]];
        const int count = left < tile.samples ? (int)left : tile.samples;
        const REAL *from = x + done * xs;
        REAL *to = y + done * ys;
        if (tile.batched) {
            LOCAL(load_block)(input, from, xs, xf, count, tile.samples, a);
            const float *rows = run_batch(m, a, b, tile.samples / VW);
            LOCAL(store_block)(&m->output, rows, count, tile.samples, to, ys, yf);
        } else {
            for (int s = 0; s < count; s++)
                LOCAL(load_sample)(input, from + s * xs, xf, a + s * width);
            const float *rows = run_few(m, a, b, count);
            for (int s = 0; s < count; s++)
                LOCAL(store_sample)(&m->output, rows + s * width, to + s * ys, yf);
        }
        done += count;
    }
}

#undef LOCAL
#undef CONCAT
#undef CONCAT_
