/* What the backends have in common: finding their library, the host's floating-point environment, its arrays. */
#define _GNU_SOURCE /* dladdr, RTLD_NODELETE */
#include "backend.h"

#include <dirent.h>
#include <dlfcn.h>
#include <fenv.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#ifndef RTLD_NODELETE
#define RTLD_NODELETE 0
#endif

const struct emu_backend *emu_find_backend(const char *name)
{
    static const struct emu_backend *const all[] = {&emu_backend_onnxruntime, &emu_backend_libtorch};
    for (size_t i = 0; name != NULL && i < sizeof all / sizeof all[0]; i++) {
        if (strcmp(all[i]->name, name) == 0)
            return all[i];
    }
    return NULL;
}

/* ---- the host's floating-point environment ---- */

_Static_assert(sizeof(fenv_t) <= EMU_ENVIRONMENT_SIZE, "EMU_ENVIRONMENT_SIZE is too small");

void emu_leave_host(emu_host_environment *host)
{
    fenv_t environment;
    fegetenv(&environment);
    memcpy(host->bytes, &environment, sizeof environment);
    fesetenv(FE_DFL_ENV);
#if defined(__SSE2__)
    _mm_setcsr(0x1f80); /* the processor's default: FE_DFL_ENV need not clear flush-to-zero */
#endif
}

void emu_return_to_host(const emu_host_environment *host)
{
    fenv_t environment;
    memcpy(&environment, host->bytes, sizeof environment);
    fesetenv(&environment); /* unlike feupdateenv, raises nothing that happened in between */
}

/* ---- finding a shared library ---- */

void emu_one_line(char *to, size_t size, const char *text)
{
    if (size == 0)
        return;
    size_t n = 0;
    bool gap = true; /* no space at the start */
    for (; *text != '\0' && n + 1 < size; text++) {
        const bool space = (unsigned char)*text <= ' ' || *text == 0x7f;
        if (!space)
            to[n++] = *text;
        else if (!gap)
            to[n++] = ' ';
        gap = space;
    }
    while (n > 0 && to[n - 1] == ' ')
        n--;
    to[n] = '\0';
}

enum { PATH_SIZE = 4096, WHY_SIZE = 400 };

static void *open_file(const char *path, char *why)
{
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (library == NULL && why[0] == '\0') {
        const char *text = dlerror();
        emu_one_line(why, WHY_SIZE, text != NULL ? text : "no reason given");
    }
    return library;
}

static bool join(char *path, const char *folder, const char *name)
{
    return (size_t)snprintf(path, PATH_SIZE, "%s/%s", folder, name) < PATH_SIZE;
}

/* The library in a folder: under one of its names, or under its first name and a version (libonnxruntime.so.1.31.1). */
static void *open_in_folder(const char *folder, const char *const *names, char *why)
{
    char path[PATH_SIZE], best[256] = "";
    struct stat info;
    for (; *names != NULL; names++) {
        if (join(path, folder, *names) && stat(path, &info) == 0)
            return open_file(path, why);
        DIR *entries = opendir(folder);
        const size_t length = strlen(*names);
        for (const struct dirent *e = NULL; entries != NULL && (e = readdir(entries)) != NULL;) {
            if (strncmp(e->d_name, *names, length) == 0 && e->d_name[length] == '.' &&
                strlen(e->d_name) < sizeof best && strcmp(e->d_name, best) > 0)
                strcpy(best, e->d_name);
        }
        if (entries != NULL)
            closedir(entries);
        if (best[0] != '\0' && join(path, folder, best))
            return open_file(path, why);
    }
    return NULL;
}

static bool our_folder(char *folder)
{
    static const char here = 0; /* an object of this library */
    Dl_info info;
    if (dladdr(&here, &info) == 0 || info.dli_fname == NULL || strlen(info.dli_fname) >= PATH_SIZE)
        return false;
    strcpy(folder, info.dli_fname);
    char *slash = strrchr(folder, '/');
    if (slash == NULL)
        return false;
    *slash = '\0';
    return true;
}

void *emu_open_library(const emu_library_search *search, const char *path, emu_error *error)
{
    char why[WHY_SIZE] = "", names[200] = "", folder[PATH_SIZE] = "";
    for (const char *const *name = search->names; *name != NULL; name++) {
        strncat(names, names[0] != '\0' ? ", " : "", sizeof names - strlen(names) - 1);
        strncat(names, *name, sizeof names - strlen(names) - 1);
    }
    const char *from = "emu_options.library";
    if (path == NULL || path[0] == '\0') {
        path = getenv(search->variable);
        from = search->variable;
    }
    if (path != NULL && path[0] != '\0') {
        struct stat info;
        const bool in_folder = stat(path, &info) == 0 && S_ISDIR(info.st_mode);
        void *library = in_folder ? open_in_folder(path, search->names, why) : open_file(path, why);
        if (library == NULL && in_folder && why[0] == '\0')
            emu_fail(error, EMU_ERR_UNSUPPORTED, "%s was not found: %s names the folder '%s', which holds no %s; %s",
                     search->what, from, path, names, search->remedy);
        else if (library == NULL)
            emu_fail(error, EMU_ERR_UNSUPPORTED, "%s cannot be opened: %s names '%s': %s; %s", search->what, from,
                     path, why, search->remedy);
        return library;
    }
    const bool know_folder = search->beside_us && our_folder(folder);
    void *library = know_folder ? open_in_folder(folder, search->names, why) : NULL;
    for (const char *const *name = search->names; library == NULL && why[0] == '\0' && *name != NULL; name++) {
        char reason[WHY_SIZE] = "";
        library = open_file(*name, reason);
        if (library == NULL && strstr(reason, "No such file") == NULL) /* found, but broken: that is the news */
            strcpy(why, reason);
    }
    if (library == NULL)
        emu_fail(error, EMU_ERR_UNSUPPORTED,
                 "%s %s: looked for %s %s%s%son the loader's search path; %s, or name it in emu_options.library or "
                 "%s%s%s",
                 search->what, why[0] != '\0' ? "cannot be opened" : "was not found", names,
                 know_folder ? "in " : "", folder, know_folder ? " and " : "", search->remedy, search->variable,
                 why[0] != '\0' ? ": " : "", why);
    return library;
}

emu_function emu_library_function(void *library, const char *name)
{
    void *symbol = dlsym(library, name);
    emu_function function;
    _Static_assert(sizeof function == sizeof symbol, "POSIX: a function's address fits a void pointer");
    memcpy(&function, &symbol, sizeof function);
    return function;
}

/* ---- the host's arrays ---- */

enum { TILE = 64 }; /* samples: a tile of a transposed array stays in L1 */

typedef struct {
    const void *from;
    int64_t from_row, from_column; /* strides */
    void *to;
    int64_t to_row, to_column;
    bool from_double, to_double; /* else float32 */
} copy;

static void copy_block(const copy *c, int64_t rows, int64_t columns)
{
    for (int64_t r0 = 0; r0 < rows; r0 += TILE) {
        const int64_t r1 = r0 + TILE < rows ? r0 + TILE : rows;
        for (int64_t j = 0; j < columns; j++) {
            int64_t from = r0 * c->from_row + j * c->from_column, to = r0 * c->to_row + j * c->to_column;
            for (int64_t r = r0; r < r1; r++, from += c->from_row, to += c->to_row) {
                const double value = c->from_double ? ((const double *)c->from)[from] : (double)((const float *)c->from)[from];
                if (c->to_double)
                    ((double *)c->to)[to] = value;
                else
                    ((float *)c->to)[to] = (float)value;
            }
        }
    }
}

int64_t emu_backend_rows(int64_t num_inputs, int64_t num_outputs)
{
    enum { MOST_ROWS = 4096, MOST_VALUES = 1 << 20 };
    const int64_t rows = MOST_VALUES / (num_inputs + num_outputs);
    return rows > MOST_ROWS ? MOST_ROWS : rows > 0 ? rows : 1;
}

static bool contiguous(int64_t ncol, int64_t n, int64_t sample_stride, int64_t feature_stride)
{
    return (feature_stride == 1 || n == 1) && (sample_stride == n || ncol == 1);
}

emu_status emu_backend_infer(const emu_model *model, int64_t ncol, const double *x, int64_t xs, int64_t xf, double *y,
                             int64_t ys, int64_t yf)
{
    const emu_runner *runner = model->backend_state;
    const int64_t n = model->num_inputs, m = model->num_outputs;
    const int64_t block = ncol < runner->max_rows ? ncol : runner->max_rows;
    const bool x_as_it_is = runner->in_double && contiguous(ncol, n, xs, xf);
    const bool y_as_it_is = runner->out_double && contiguous(ncol, m, ys, yf);
    emu_host_environment host;
    emu_leave_host(&host); /* before the copies: a conversion to float32 may overflow */
    const size_t x_size = x_as_it_is ? 0 : (size_t)(block * n) * (runner->in_double ? sizeof(double) : sizeof(float));
    const size_t y_size = y_as_it_is ? 0 : (size_t)(block * m) * (runner->out_double ? sizeof(double) : sizeof(float));
    const size_t y_at = (x_size + 63) / 64 * 64;
    unsigned char *buffer = x_size + y_size > 0 ? malloc(y_at + y_size) : NULL;
    emu_status status = x_size + y_size > 0 && buffer == NULL ? EMU_ERR_MEMORY : EMU_OK;
    for (int64_t s = 0; s < ncol && status == EMU_OK; s += block) {
        const int64_t rows = ncol - s < block ? ncol - s : block;
        const double *from = x + s * xs;
        double *to = y + s * ys;
        void *y_buffer = y_as_it_is ? (void *)to : buffer + y_at;
        if (!x_as_it_is)
            copy_block(&(copy){from, xs, xf, buffer, n, 1, true, runner->in_double}, rows, n);
        status = runner->run(model, rows, x_as_it_is ? (const void *)from : buffer, y_buffer);
        if (status == EMU_OK && !y_as_it_is)
            copy_block(&(copy){y_buffer, m, 1, to, ys, yf, runner->out_double, true}, rows, m);
    }
    free(buffer);
    emu_return_to_host(&host);
    return status;
}
