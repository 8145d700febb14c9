#include "arena.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { ALIGNMENT = 64, BLOCK_BYTES = 32 * 1024 };

struct emu_block {
    struct emu_block *next;
    size_t size, used; /* of the bytes after the aligned start */
    unsigned char *start;
};

void *emu_arena_alloc(emu_arena *arena, size_t count, size_t size)
{
    if (size != 0 && count > (SIZE_MAX / 4) / size)
        return NULL;
    size_t bytes = (count * size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    if (bytes == 0)
        bytes = ALIGNMENT;
    emu_block *block = arena->blocks;
    if (block == NULL || block->size - block->used < bytes) {
        size_t room = bytes > BLOCK_BYTES / 4 ? bytes : BLOCK_BYTES;
        block = malloc(sizeof *block + ALIGNMENT + room);
        if (block == NULL)
            return NULL;
        uintptr_t after = (uintptr_t)(block + 1);
        block->start = (unsigned char *)(block + 1) + (ALIGNMENT - after % ALIGNMENT) % ALIGNMENT;
        block->size = room;
        block->used = 0;
        /* A large block is full at once: keep the half-empty small one in front. */
        if (arena->blocks != NULL && room == bytes) {
            block->next = arena->blocks->next;
            arena->blocks->next = block;
        } else {
            block->next = arena->blocks;
            arena->blocks = block;
        }
    }
    void *result = block->start + block->used;
    block->used += bytes;
    arena->used += bytes;
    memset(result, 0, bytes);
    return result;
}

void emu_arena_free(emu_arena *arena)
{
    emu_block *block = arena->blocks;
    while (block != NULL) {
        emu_block *next = block->next;
        free(block);
        block = next;
    }
    arena->blocks = NULL;
    arena->used = 0;
}
