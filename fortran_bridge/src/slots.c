/* Places for intermediate results in one row: offline, the widest first, each as low as those needed at the same time
 * allow. A chain of layers so costs its two widest neighbours, not the sum. */
#include "columns.h"

/* slots[order[0]], slots[order[1]], ...: widest first, then as given. A heap sort: no recursion, n log n at worst. */
static bool goes_before(const emu_slot *slots, int32_t a, int32_t b)
{
    return slots[a].width != slots[b].width ? slots[a].width > slots[b].width : a < b;
}

static void sift(const emu_slot *slots, int32_t *order, int32_t root, int32_t count)
{
    for (int32_t child; (child = 2 * root + 1) < count; root = child) {
        if (child + 1 < count && goes_before(slots, order[child], order[child + 1]))
            child++;
        if (!goes_before(slots, order[root], order[child]))
            return;
        const int32_t swap = order[root];
        order[root] = order[child];
        order[child] = swap;
    }
}

static void sort(const emu_slot *slots, int32_t *order, int32_t count)
{
    for (int32_t root = count / 2 - 1; root >= 0; root--)
        sift(slots, order, root, count);
    for (int32_t end = count - 1; end > 0; end--) {
        const int32_t swap = order[0];
        order[0] = order[end];
        order[end] = swap;
        sift(slots, order, 0, end);
    }
}

int64_t emu_place_slots(emu_slot *slots, int32_t count, int32_t *order)
{
    int64_t columns = 0;
    for (int32_t i = 0; i < count; i++)
        order[i] = i;
    sort(slots, order, count);
    for (int32_t i = 0; i < count; i++) { /* order[0..i) is sorted by offset from here on */
        const int32_t which = order[i];
        emu_slot *slot = &slots[which];
        const int64_t width = (slot->width + 15) / 16 * 16;
        int64_t offset = 0;
        for (int32_t k = 0; k < i; k++) {
            const emu_slot *placed = &slots[order[k]];
            if (placed->death < slot->birth || slot->death < placed->birth)
                continue;
            if (offset + width <= placed->offset)
                break;
            const int64_t end = placed->offset + ((int64_t)placed->width + 15) / 16 * 16;
            offset = end > offset ? end : offset;
        }
        if (offset + width > MAX_ROW)
            return offset + width;
        slot->offset = (int32_t)offset;
        columns = offset + width > columns ? offset + width : columns;
        int32_t k = i;
        for (; k > 0 && slots[order[k - 1]].offset > slot->offset; k--)
            order[k] = order[k - 1];
        order[k] = which;
    }
    return columns;
}
