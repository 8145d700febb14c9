/* Memory that is taken piece by piece and given back at once, so that no error path can leak. */
#ifndef EMU_ARENA_H
#define EMU_ARENA_H

#include <stddef.h>

typedef struct emu_block emu_block;
typedef struct {
    emu_block *blocks; /* newest first; all freed by emu_arena_free */
    size_t used;       /* bytes handed out, for limits */
} emu_arena;

/* count * size bytes, zeroed, aligned to 64; NULL if they cannot be had or the product overflows. */
void *emu_arena_alloc(emu_arena *arena, size_t count, size_t size);
/* So many bytes will follow, in any number of pieces: one block for all of them. Only a hint: no memory is no failure. */
void emu_arena_reserve(emu_arena *arena, size_t bytes);
void emu_arena_free(emu_arena *arena);

#endif
