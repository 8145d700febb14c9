/* Tasks timed in turn. */
#define _POSIX_C_SOURCE 200809L
#include "bench.h"

#include <math.h>
#include <time.h>

double bench_now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return 1e9 * (double)t.tv_sec + (double)t.tv_nsec;
}

static const double LONG_CALL_NS = 1e6;

/* Processor time of the process, all of its threads. On an idle core it is the wall-clock time. */
static double processor_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return 1e9 * (double)t.tv_sec + (double)t.tv_nsec;
}

/* Cost of a call by the wall clock. Of many short blocks some are undisturbed; of long ones, on a busy machine, none is:
 * where another process had the core meanwhile, the processor's time counts. Not for short ones: the kernel's accounting
 * is some 10 us off at times (seen on a virtual machine), and the least of many would find just these. */
static double time_block(struct bench_task *task, long calls)
{
    const double processor_start = processor_ns(), start = bench_now_ns();
    task->run(task->context, calls);
    const double wall = bench_now_ns() - start, processor = processor_ns() - processor_start;
    return (wall > LONG_CALL_NS && wall > 1.05 * processor ? processor : wall) / (double)calls;
}

/* As many calls as fill a block. First calls are slow (a peer may still be optimising for that batch), so the cost is
 * estimated again until it no longer falls. */
static void choose_calls(struct bench_task *task, double block_ns)
{
    double cost = time_block(task, 1);
    if (cost < 100.0 * LONG_CALL_NS)
        for (int k = 0; k < 4; k++)
            cost = fmin(cost, time_block(task, 1));
    task->calls = (long)fmax(1.0, block_ns / cost);
    if (task->calls > 4)
        task->calls = (long)fmax(1.0, block_ns / fmin(cost, time_block(task, task->calls)));
    task->is_long = cost > 5.0 * LONG_CALL_NS; /* it needs no call before it to warm caches up */
    task->best_ns = INFINITY;
}

/* The least of many short blocks: what disturbs this machine (neighbours, interrupts) only adds time. In turn, so that
 * a slow second of the machine hits all. */
void bench_interleave(struct bench_task *tasks, int num_tasks, double seconds, int min_rounds, double block_ns)
{
    for (int k = 0; k < num_tasks; k++)
        choose_calls(&tasks[k], block_ns);
    const double start = bench_now_ns();
    for (int round = 0; round < min_rounds || bench_now_ns() - start < 1e9 * seconds; round++) {
        for (int k = 0; k < num_tasks; k++) {
            if (!tasks[k].is_long)
                tasks[k].run(tasks[k].context, 1); /* its weights and code back into the caches */
            tasks[k].best_ns = fmin(tasks[k].best_ns, time_block(&tasks[k], tasks[k].calls));
        }
    }
}
