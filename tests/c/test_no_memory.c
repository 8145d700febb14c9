/* Every allocation that the library makes fails once, in turn: each time a status, nothing leaked, and a later call
 * works. Linked with --wrap, so that malloc and calloc of the library come here. */
#include "check.h"
#include "onnx_writer.h"

#include <pthread.h>

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);

static long allocations, failing = -1; /* the one to fail, counted from 0; -1: none */

void *__wrap_malloc(size_t size)
{
    return allocations++ == failing ? NULL : __real_malloc(size);
}

void *__wrap_calloc(size_t count, size_t size)
{
    return allocations++ == failing ? NULL : __real_calloc(count, size);
}

static bytes model;
static const char *path;

static emu_status load_from_bytes(void)
{
    emu_model *m;
    const emu_status status = emu_load_bytes(model.data, model.size, &m, NULL, 0);
    emu_free(m);
    return status;
}

static emu_status load_from_file(void)
{
    emu_model *m;
    const emu_status status = emu_load(path, &m, NULL, 0);
    emu_free(m);
    return status;
}

static emu_status load_with_options(void)
{
    emu_model *m;
    emu_options options;
    emu_options_init(&options);
    options.isa = "portable";
    options.precision = 64;
    const emu_status status = emu_load_bytes_with(model.data, model.size, &options, &m, NULL, 0);
    emu_free(m);
    return status;
}

static emu_model *loaded;

static emu_status check(void)
{
    return emu_self_check(loaded, NULL, NULL, 0);
}

static emu_status measure(void)
{
    double ns;
    return emu_measure(loaded, 5, 0, 0.0, &ns);
}

static void *infer_in_thread(void *result) /* a new thread has no workspace yet */
{
    static const double x[40];
    double y[40];
    *(emu_status *)result = emu_infer_f64(loaded, 1, x, 1, 1, y, 1, 1, NULL, 0);
    return NULL;
}

static void *infer_guarded_in_thread(void *result)
{
    static const double x[40];
    double y[40];
    int64_t below[6] = {0};
    emu_guard guard;
    emu_guard_init(&guard);
    guard.clamp = 1;
    guard.below = below;
    *(emu_status *)result = emu_infer_guarded_f64(loaded, 5, x, 6, 1, y, 3, 1, NULL, 0, &guard);
    if (*(emu_status *)result != EMU_OK && (guard.num_samples != 0 || below[0] != 0))
        *(emu_status *)result = EMU_ERR_CHECK; /* on failure the guard is untouched */
    return NULL;
}

static emu_status run_in_thread(void *(*call)(void *))
{
    emu_status status = EMU_ERR_CHECK;
    pthread_t thread;
    const long before = failing; /* the thread's own start may allocate as well; count from here */
    failing = -1;
    allocations = 0;
    failing = before;
    pthread_create(&thread, NULL, call, &status);
    pthread_join(thread, NULL);
    return status;
}

static emu_status infer(void)
{
    return run_in_thread(infer_in_thread);
}

static emu_status infer_guarded(void)
{
    return run_in_thread(infer_guarded_in_thread);
}

/* With a workspace, nothing is allocated: whatever the layout and the guard */
static emu_status infer_with_workspace(void)
{
    static unsigned char workspace[1 << 20];
    static double x[6 * 500], y[3 * 500];
    static float x_f32[6 * 500], y_f32[3 * 500];
    const size_t size = emu_workspace_size(loaded);
    emu_status status = size <= sizeof workspace ? EMU_OK : EMU_ERR_CHECK;
    for (int clamp = 0; clamp < 2 && status == EMU_OK; clamp++) {
        emu_guard guard;
        emu_guard_init(&guard);
        guard.clamp = clamp;
        status = emu_infer_guarded_f64(loaded, 500, x, 6, 1, y, 3, 1, workspace, size, &guard);
        if (status == EMU_OK)
            status = emu_infer_guarded_f32(loaded, 500, x_f32, 1, 500, y_f32, 1, 500, workspace, size, &guard);
    }
    return status;
}

/* Fail the first allocation, the second, ... until the call needs no more; returns how many it makes */
static long exhaust(const char *what, emu_status (*call)(void))
{
    for (long n = 0;; n++) {
        allocations = 0;
        failing = n;
        const emu_status status = call();
        const int reached = allocations > n;
        failing = -1;
        if (!reached) {
            CHECK(status == EMU_OK, "%s: %s without a failure", what, emu_status_name(status));
            return n;
        }
        CHECK(status == EMU_ERR_MEMORY, "%s: %s when allocation %ld failed", what, emu_status_name(status), n);
    }
}

int main(void)
{
    static const int widths[] = {6, 40, 20, 3};
    net n = random_net(5, 3, widths, "Relu", "Sigmoid", 1);
    n.names = 1;
    n.num_checks = 4;
    model = write_model(&n);
    char file[] = "/tmp/libemulator_test_XXXXXX";
    FILE *stream = fdopen(mkstemp(file), "wb");
    fwrite(model.data, 1, model.size, stream);
    fclose(stream);
    path = file;
    loaded = load_or_die(&model);

    const long from_bytes = exhaust("emu_load_bytes", load_from_bytes);
    const long from_file = exhaust("emu_load", load_from_file);
    const long self_check = exhaust("emu_self_check", check);
    const long timing = exhaust("emu_measure", measure);
    const long with_options = exhaust("emu_load_bytes_with", load_with_options);
    const long inference = exhaust("emu_infer_f64", infer);
    const long guarded = exhaust("emu_infer_guarded_f64", infer_guarded);
    const long with_workspace = exhaust("emu_infer_guarded_* with a workspace", infer_with_workspace);
    CHECK(from_bytes >= 3, "the wrapper saw %ld allocations of emu_load_bytes", from_bytes);
    CHECK(from_file == from_bytes + 1, "one more for the file: %ld, %ld", from_file, from_bytes);
    CHECK(self_check >= 1 && timing == 4 && inference == 1 && guarded == 1, "%ld %ld %ld %ld", self_check, timing,
          inference, guarded);
    CHECK(with_options >= 3 && with_workspace == 0, "%ld, %ld", with_options, with_workspace);
    emu_free(loaded);
    free(model.data);
    free_net(&n);
    remove(file);
    FINISH(8 + from_bytes + from_file + self_check + timing + with_options + inference + guarded + with_workspace + 4);
}
