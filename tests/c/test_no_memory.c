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

static emu_status infer(void)
{
    emu_status status = EMU_ERR_CHECK;
    pthread_t thread;
    const long before = failing; /* the thread's own start may allocate as well; count from here */
    failing = -1;
    allocations = 0;
    failing = before;
    pthread_create(&thread, NULL, infer_in_thread, &status);
    pthread_join(thread, NULL);
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
    const long inference = exhaust("emu_infer_f64", infer);
    CHECK(from_bytes >= 3, "the wrapper saw %ld allocations of emu_load_bytes", from_bytes);
    CHECK(from_file == from_bytes + 1, "one more for the file: %ld, %ld", from_file, from_bytes);
    CHECK(self_check >= 1 && timing == 4 && inference == 1, "%ld %ld %ld", self_check, timing, inference);
    emu_free(loaded);
    free(model.data);
    free_net(&n);
    remove(file);
    FINISH(5 + from_bytes + from_file + self_check + timing + inference + 3);
}
