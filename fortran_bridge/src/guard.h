/* Inputs outside the training ranges: counted, flagged, clamped. */
#ifndef EMU_GUARD_H
#define EMU_GUARD_H

#include "model.h"

enum { EMU_GUARD_BLOCK = EMU_MAX_BLOCK }; /* samples that are counted or clamped at a time */

/* Fill the model's limits from its ranges; false without memory. */
bool emu_set_limits(emu_model *model);

bool emu_guard_is_good(const emu_guard *guard);

/* Count samples `first` to `first + count` of the call, which start at x, float64 (size 8) or float32 (size 4). True if
 * an input is outside or NaN. */
bool emu_guard_count(const emu_model *m, emu_guard *guard, int64_t first, int64_t count, size_t size, const void *x,
                     int64_t xs, int64_t xf);

/* to[f * EMU_GUARD_BLOCK + s] = input f of sample s, moved into its range; count <= EMU_GUARD_BLOCK */
void emu_guard_clamp(const emu_model *m, int64_t count, size_t size, const void *x, int64_t xs, int64_t xf, void *to);

/* Input f, moved into the range that holds for values of that size */
double emu_guard_clamp_value(const emu_model *m, int64_t f, size_t size, double value);

#endif
