/* The measured peak: independent multiply-adds in registers, in assembly, so that no compiler spills them (gcc did, and
 * the "peak" read half). 12 accumulators cover latency times throughput of every core we know (4 cycles x 2 or 3). */
#include "bench.h"

#include <math.h>
#include <string.h>

#define TWELVE(F) F(0) F(1) F(2) F(3) F(4) F(5) F(6) F(7) F(8) F(9) F(10) F(11)

#if defined(__x86_64__)
#define FMA512(k) "vfmadd231ps %%zmm14, %%zmm15, %%zmm" #k "\n\t"
#define FMA256(k) "vfmadd231ps %%ymm14, %%ymm15, %%ymm" #k "\n\t"
#define CLOBBERS "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", \
    "xmm11", "xmm14", "xmm15"

static void loop_avx512(void *unused, long loops)
{
    (void)unused;
    __asm__ volatile("vzeroall\n1:\n\t" TWELVE(FMA512) TWELVE(FMA512) "dec %0\n\tjnz 1b\n\tvzeroupper"
                     : "+r"(loops) : : CLOBBERS);
}

static void loop_avx2(void *unused, long loops)
{
    (void)unused;
    __asm__ volatile("vzeroall\n1:\n\t" TWELVE(FMA256) TWELVE(FMA256) "dec %0\n\tjnz 1b\n\tvzeroupper"
                     : "+r"(loops) : : CLOBBERS);
}
#elif defined(__aarch64__)
#define FMA128(k) "fmla v" #k ".4s, v30.4s, v31.4s\n\t"
#define NEXT128 "fmla v16.4s, v30.4s, v31.4s\n\tfmla v17.4s, v30.4s, v31.4s\n\tfmla v18.4s, v30.4s, v31.4s\n\t" \
    "fmla v19.4s, v30.4s, v31.4s\n\t" /* four pipes on large cores: 16 accumulators */

static void loop_neon(void *unused, long loops)
{
    (void)unused;
    __asm__ volatile("1:\n\t" TWELVE(FMA128) NEXT128 "subs %0, %0, #1\n\tb.ne 1b"
                     : "+r"(loops) : : "cc", "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8", "v9", "v10", "v11",
                     "v16", "v17", "v18", "v19");
}
#endif

double bench_peak_gflops(const char *isa, double seconds)
{
    struct bench_task task = {NULL, NULL, 0, 0, 0.0};
    double flops = 0.0; /* of one loop */
#if defined(__x86_64__)
    const int wants_avx2 = strcmp(isa, "avx2") == 0;
    if (!wants_avx2 && __builtin_cpu_supports("avx512f")) {
        task.run = loop_avx512;
        flops = 2.0 * 16 * 24;
    } else if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        task.run = loop_avx2;
        flops = 2.0 * 8 * 24;
    }
#elif defined(__aarch64__)
    task.run = loop_neon;
    flops = 2.0 * 4 * 16;
#endif
    (void)isa;
    if (task.run == NULL)
        return 0.0;
    bench_interleave(&task, 1, seconds, 10, 200e3);
    return flops / task.best_ns;
}
