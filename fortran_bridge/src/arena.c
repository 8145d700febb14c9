#define _DEFAULT_SOURCE /* madvise */
#include "arena.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>

enum { ALIGNMENT = 64, BLOCK_BYTES = 32 * 1024, HUGE_PAGE = 2 * 1024 * 1024 };

struct emu_block {
    struct emu_block *next;
    size_t size, used; /* of the bytes after the aligned start */
    unsigned char *start;
};

static emu_block *new_block(size_t room)
{
    const size_t alignment = room < HUGE_PAGE ? ALIGNMENT : HUGE_PAGE;
    emu_block *block = calloc(1, sizeof *block + alignment + room);
    if (block == NULL)
        return NULL;
    const uintptr_t after = (uintptr_t)(block + 1);
    block->start = (unsigned char *)(block + 1) + (alignment - after % alignment) % alignment;
    block->size = room;
#if defined(MADV_HUGEPAGE)
    if (alignment == HUGE_PAGE) /* half the time that a large model takes to load is page faults otherwise */
        (void)madvise(block->start, room, MADV_HUGEPAGE);
#endif
    return block;
}

static bool has_room(const emu_block *block, size_t bytes)
{
    return block != NULL && block->size - block->used >= bytes;
}

void emu_arena_reserve(emu_arena *arena, size_t bytes)
{
    emu_block *block = bytes > SIZE_MAX / 4 || has_room(arena->blocks, bytes) ? NULL : new_block(bytes);
    if (block != NULL) {
        block->next = arena->blocks;
        arena->blocks = block;
    }
}

void *emu_arena_alloc(emu_arena *arena, size_t count, size_t size)
{
    if (size != 0 && count > (SIZE_MAX / 4) / size)
        return NULL;
    size_t bytes = (count * size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    if (bytes == 0)
        bytes = ALIGNMENT;
    emu_block *block = arena->blocks;
    if (!has_room(block, bytes)) {
        const size_t room = bytes > BLOCK_BYTES / 4 ? bytes : BLOCK_BYTES;
        block = new_block(room);
        if (block == NULL)
            return NULL;
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
