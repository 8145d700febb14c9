/* What a Fortran `type(emulator_model)` points at. Private to libemulator.F90.
 *
 * Copies of a Fortran model share one `shared`: the loaded model and the first error that nobody asked for. Each
 * variable holds a ticket of its own and the ticket's generation; giving the ticket back raises the generation, so
 * that giving it back again, or using it, finds a stale number and does nothing. That matters: gfortran 12 copies a
 * type that contains a model through a temporary, bit by bit, and finalizes the temporary as well. Tickets are used
 * again and their memory is never freed: a stale pointer still points at a ticket. */
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "libemulator.h"

enum { MESSAGE_SIZE = 1024 };

typedef struct {
    atomic_int references;
    atomic_int claimed; /* by the thread that writes the first error */
    atomic_int status;  /* set once the message is complete */
    emu_model *model;   /* NULL when loading failed */
    char message[MESSAGE_SIZE];
} shared;

typedef struct ticket {
    _Atomic int64_t generation;
    shared *holds; /* valid for the present generation */
    struct ticket *next_free;
} ticket;

void *emu_fortran_open(emu_model *model, int64_t *generation);
void *emu_fortran_share(void *pointer, int64_t generation, int64_t *new_generation);
void emu_fortran_release(void *pointer, int64_t generation);
emu_model *emu_fortran_model(void *pointer, int64_t generation);
void emu_fortran_record(void *pointer, int64_t generation, int status, const char *message);
int emu_fortran_status(void *pointer, int64_t generation);
const char *emu_fortran_message(void *pointer, int64_t generation);
void emu_fortran_clear(void *pointer, int64_t generation);

static atomic_flag pool_lock = ATOMIC_FLAG_INIT;
static ticket *pool; /* tickets to be used again */

static ticket *new_ticket(shared *holds, int64_t *generation)
{
    while (atomic_flag_test_and_set(&pool_lock)) {
    }
    ticket *t = pool;
    if (t != NULL)
        pool = t->next_free;
    atomic_flag_clear(&pool_lock);
    if (t == NULL) {
        t = calloc(1, sizeof *t);
        if (t == NULL)
            return NULL;
        atomic_init(&t->generation, 1);
    }
    t->holds = holds;
    *generation = atomic_load(&t->generation);
    return t;
}

static shared *held(void *pointer, int64_t generation)
{
    ticket *t = pointer;
    return t != NULL && atomic_load(&t->generation) == generation ? t->holds : NULL;
}

static void drop(shared *s)
{
    if (atomic_fetch_sub(&s->references, 1) == 1) {
        emu_free(s->model);
        free(s);
    }
}

/* A ticket for a model just loaded (NULL: loading failed); NULL without memory, and the model is the caller's still */
void *emu_fortran_open(emu_model *model, int64_t *generation)
{
    *generation = 0;
    shared *s = calloc(1, sizeof *s);
    if (s == NULL)
        return NULL;
    ticket *t = new_ticket(s, generation);
    if (t == NULL) {
        free(s);
        return NULL;
    }
    atomic_init(&s->references, 1);
    s->model = model;
    return t;
}

/* Another ticket for the same; NULL if the first is stale, or without memory */
void *emu_fortran_share(void *pointer, int64_t generation, int64_t *new_generation)
{
    *new_generation = 0;
    shared *s = held(pointer, generation);
    if (s == NULL)
        return NULL;
    atomic_fetch_add(&s->references, 1);
    ticket *t = new_ticket(s, new_generation);
    if (t == NULL)
        drop(s);
    return t;
}

void emu_fortran_release(void *pointer, int64_t generation)
{
    ticket *t = pointer;
    shared *s = held(pointer, generation);
    if (s == NULL || !atomic_compare_exchange_strong(&t->generation, &generation, generation + 1))
        return;
    drop(s);
    while (atomic_flag_test_and_set(&pool_lock)) {
    }
    t->next_free = pool;
    pool = t;
    atomic_flag_clear(&pool_lock);
}

emu_model *emu_fortran_model(void *pointer, int64_t generation)
{
    const shared *s = held(pointer, generation);
    return s != NULL ? s->model : NULL;
}

/* The first error wins; a later one, or one at the same moment on another thread, is dropped. */
void emu_fortran_record(void *pointer, int64_t generation, int status, const char *message)
{
    shared *s = held(pointer, generation);
    int nobody = 0;
    if (s == NULL || !atomic_compare_exchange_strong(&s->claimed, &nobody, 1))
        return;
    strncpy(s->message, message, MESSAGE_SIZE - 1);
    atomic_store(&s->status, status);
}

int emu_fortran_status(void *pointer, int64_t generation)
{
    shared *s = held(pointer, generation);
    return s != NULL ? atomic_load(&s->status) : EMU_OK;
}

/* Complete only once emu_fortran_status is not 0 */
const char *emu_fortran_message(void *pointer, int64_t generation)
{
    return emu_fortran_status(pointer, generation) != EMU_OK ? held(pointer, generation)->message : "";
}

void emu_fortran_clear(void *pointer, int64_t generation)
{
    shared *s = held(pointer, generation);
    if (s == NULL)
        return;
    atomic_store(&s->status, EMU_OK);
    atomic_store(&s->claimed, 0);
}
