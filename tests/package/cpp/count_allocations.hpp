/* Every allocation of the process, those of shared libraries too, is counted (glibc). Included by one file of a program. */
#ifndef COUNT_ALLOCATIONS_HPP
#define COUNT_ALLOCATIONS_HPP

#include <atomic>
#include <cstddef>

static std::atomic<long> allocations{0};

extern "C" {
void *__libc_malloc(std::size_t size);
void *__libc_calloc(std::size_t count, std::size_t size);
void *__libc_realloc(void *block, std::size_t size);
void *__libc_memalign(std::size_t alignment, std::size_t size);
void *malloc(std::size_t size)
{
    allocations++;
    return __libc_malloc(size);
}
void *calloc(std::size_t count, std::size_t size)
{
    allocations++;
    return __libc_calloc(count, size);
}
void *realloc(void *block, std::size_t size)
{
    allocations++;
    return __libc_realloc(block, size);
}
void *aligned_alloc(std::size_t alignment, std::size_t size)
{
    allocations++;
    return __libc_memalign(alignment, size);
}
}

#endif
