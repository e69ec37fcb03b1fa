#include "backends/simt/runner.h"

#include "backends/simt/trap.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#ifdef SIMT_ASAN
#include <sanitizer/asan_interface.h>
#endif

__thread struct simt_lane *simt_now;
static __thread struct simt_runner *here __attribute__((tls_model("initial-exec")));

struct simt_runner *runner_here()
{
    return here;
}

static size_t round_up(size_t n, size_t to)
{
    return (n + to - 1) / to * to;
}

// ---- which thread is next

static inline uint32_t first_of(const struct simt_runner *runner, uint32_t mask)
{
    return static_cast<uint32_t>(runner->downwards ? 31 - __builtin_clz(mask) : __builtin_ctz(mask));
}

// Takes it out of the ready ones; NULL: none is.
static inline struct simt_lane *next_lane(struct simt_runner *runner)
{
    struct simt_group *group = &runner->groups[runner->group];
    while (!group->ready) {
        runner->ready_groups &= ~(1u << runner->group);
        if (!runner->ready_groups)
            return NULL;
        runner->group = first_of(runner, runner->ready_groups);
        group = &runner->groups[runner->group];
    }
    const uint32_t lane = first_of(runner, group->ready);
    group->ready &= ~(1u << lane);
    return &runner->lanes[runner->group * 32 + lane];
}

static void fibre_main(void *user);

// One that waits for work; NULL without memory.
static struct fibre *idle_fibre(struct simt_runner *runner)
{
    if (runner->n_idle)
        return runner->idle[--runner->n_idle];
    struct fibre *fibre = &runner->fibres[runner->n_fibres];
    char *stack =
        runner->stacks + runner->n_fibres * static_cast<size_t>(FIBRE_SLOT_BYTES) + FIBRE_GUARD_BYTES;
    if (mprotect(stack, FIBRE_STACK_BYTES, PROT_READ | PROT_WRITE) != 0)
        return NULL;
    fibre_make(fibre, stack, FIBRE_STACK_BYTES, runner->n_fibres++, fibre_main, fibre);
    return fibre;
}

// A fibre executes one thread of a block after another; only one that waits keeps it. So threads that never
// wait need one stack and no switch. Without a thread to execute it ends.
static void fibre_main(void *user)
{
    struct fibre *fibre = static_cast<struct fibre *>(user);
    struct simt_runner *runner = here;
    fibre_begun(fibre);
    while (fibre->lane) {
        simt_now = fibre->lane;
        runner->run(runner->arguments);
        runner->n_ended++;
        struct simt_lane *next = next_lane(runner);
        if (next && !next->fibre) {
            next->fibre = fibre;
            fibre->lane = next;
            continue;
        }
        runner->idle[runner->n_idle++] = fibre;
        fibre_switch(fibre, next ? next->fibre : &runner->main);
    }
    fibre_leave(fibre, &runner->main);
}

[[noreturn]] void runner_give_up()
{
    struct simt_runner *runner = here;
    fibre_switch(simt_now->fibre, &runner->main);
    __builtin_unreachable();
}

[[noreturn]] static void give_up(struct simt_runner *runner, enum runner_fault fault)
{
    runner->fault = fault;
    runner->fault_lane = simt_now;
    runner_give_up();
}

// Until what `lane` waits for has come.
static void give_way(struct simt_runner *runner, struct simt_lane *lane, uint32_t meeting)
{
    lane->waits = meeting;
    struct simt_lane *next = next_lane(runner);
    if (!next)
        give_up(runner, RUNNER_STUCK);
    if (!next->fibre) {
        next->fibre = idle_fibre(runner);
        if (!next->fibre)
            give_up(runner, RUNNER_MEMORY);
        next->fibre->lane = next;
    }
    fibre_switch(lane->fibre, next->fibre);
    simt_now = lane;
    lane->waits = SIMT_RUNS;
}

// ---- what kernels call

void simt_meet_block()
{
    struct simt_runner *runner = here;
    struct simt_lane *lane = simt_now;
    if (++runner->n_waiting < runner->n_threads) {
        give_way(runner, lane, SIMT_BARRIER);
        return;
    }
    const uint32_t n_groups = runner->n_threads / 32;
    runner->n_waiting = 0;
    for (uint32_t g = 0; g < n_groups; g++)
        runner->groups[g].ready = UINT32_MAX;
    runner->ready_groups = UINT32_MAX >> (32 - n_groups);
    lane->group->ready &= ~(1u << lane->index);
}

void simt_meet_lanes(uint32_t meeting)
{
    struct simt_runner *runner = here;
    struct simt_lane *lane = simt_now;
    struct simt_group *group = lane->group;
    if (!group->arrived)
        group->meeting = meeting;
    else if (group->meeting != meeting)
        give_up(runner, RUNNER_MEETING);
    if (++group->arrived < 32) {
        give_way(runner, lane, meeting);
        return;
    }
    group->arrived = 0;
    group->ready = ~(1u << lane->index);
}

static void fill(char *at, size_t bytes, uint16_t pattern)
{
    const uint64_t word = pattern * 0x0001000100010001u;
    for (; bytes >= sizeof word; at += sizeof word, bytes -= sizeof word)
        memcpy(at, &word, sizeof word);
    memcpy(at, &word, bytes);
}

static bool is_filled(const char *at, size_t bytes, uint16_t pattern)
{
    for (size_t i = 0; i < bytes; i++)
        if (static_cast<unsigned char>(at[i]) != static_cast<unsigned char>(i % 2 ? pattern >> 8 : pattern))
            return false;
    return true;
}

// Bytes behind an array that are nobody's.
static size_t red_bytes(const struct simt_array *array)
{
    return round_up(array->bytes, 16) - array->bytes + SIMT_RED_BYTES;
}

static void guard(const char *at, size_t bytes, bool on)
{
#ifdef SIMT_ASAN
    if (on)
        __asan_poison_memory_region(at, bytes);
    else
        __asan_unpoison_memory_region(at, bytes);
#else
    (void)at, (void)bytes, (void)on;
#endif
}

void *simt_shared(size_t bytes, const char *name)
{
    struct simt_runner *runner = here;
    const uint32_t index = simt_now->n_shared++;
    if (index < runner->n_arrays) {
        const struct simt_array *known = &runner->arrays[index];
        if (known->bytes != bytes || known->name != name)
            give_up(runner, RUNNER_SHARED_ORDER);
        return known->at;
    }
    if (index == SIMT_ARRAYS || round_up(bytes, 16) > SIMT_SHARED_BYTES - runner->shared_bytes)
        give_up(runner, RUNNER_SHARED_SIZE);
    struct simt_array *array = &runner->arrays[index];
    *array = {name, bytes, runner->arena + runner->shared_used};
    runner->shared_bytes += round_up(bytes, 16);
    runner->shared_used += bytes + red_bytes(array);
    runner->n_arrays++;
    fill(array->at, bytes, SIMT_POISON);
    fill(array->at + bytes, red_bytes(array), SIMT_RED);
    guard(array->at + bytes, red_bytes(array), true);
    return array->at;
}

// ---- a block

// Before the first array there is a red zone too.
static bool check_shared(struct simt_runner *runner)
{
    guard(runner->arena, runner->shared_used, false);
    bool good = is_filled(runner->arena, SIMT_RED_BYTES, SIMT_RED);
    if (!good && runner->n_arrays)
        runner->array = runner->arrays[0].name;
    for (uint32_t i = 0; good && i < runner->n_arrays; i++) {
        const struct simt_array *array = &runner->arrays[i];
        good = is_filled(array->at + array->bytes, red_bytes(array), SIMT_RED);
        runner->array = array->name;
    }
    return good;
}

static void set_lanes(struct simt_runner *runner, const struct simt_place *place)
{
    // Lanes keep where they are from one block to the next of the same shape.
    const dim3 *was = &runner->place.threads, *is = &place->threads;
    const bool same = was->x == is->x && was->y == is->y && was->z == is->z && runner->n_threads;
    runner->place = *place;
    runner->n_threads = is->x * is->y * is->z;
    if (!same) {
        uint32_t i = 0;
        for (uint32_t z = 0; z < is->z; z++)
            for (uint32_t y = 0; y < is->y; y++)
                for (uint32_t x = 0; x < is->x; x++, i++) {
                    runner->lanes[i].thread = {x, y, z};
                    runner->lanes[i].index = i % 32;
                    runner->lanes[i].group = &runner->groups[i / 32];
                    runner->lanes[i].place = &runner->place;
                }
    }
    for (uint32_t i = 0; i < runner->n_threads; i++) {
        struct simt_lane *lane = &runner->lanes[i];
        lane->fibre = NULL;
        lane->exchanges = lane->n_shared = lane->waits = 0;
    }
    const uint32_t n_groups = runner->n_threads / 32;
    for (uint32_t g = 0; g < n_groups; g++) {
        runner->groups[g].ready = UINT32_MAX;
        runner->groups[g].arrived = 0;
    }
    runner->ready_groups = UINT32_MAX >> (32 - n_groups);
}

bool runner_block(struct simt_runner *runner, const struct simt_place *place,
                  void (*run)(const void *arguments), const void *arguments, bool downwards)
{
    if (runner->fault != RUNNER_FINE)
        return false;
    set_lanes(runner, place);
    runner->run = run;
    runner->arguments = arguments;
    runner->downwards = downwards;
    runner->n_ended = runner->n_waiting = 0;
    runner->group = first_of(runner, runner->ready_groups);
    runner->shared_bytes = 0;
    runner->shared_used = SIMT_RED_BYTES;
    runner->n_arrays = 0;
    fill(runner->arena, SIMT_RED_BYTES, SIMT_RED);
    guard(runner->arena, SIMT_RED_BYTES, true);

    struct simt_lane *first = next_lane(runner);
    first->fibre = idle_fibre(runner);
    if (!first->fibre) {
        runner->fault = RUNNER_MEMORY;
        runner->fault_lane = first;
        guard(runner->arena, runner->shared_used, false);
        return false;
    }
    first->fibre->lane = first;
    runner->in_kernel = 1;
    fibre_switch(&runner->main, first->fibre);
    runner->in_kernel = 0;

    if (runner->fault == RUNNER_FINE && runner->n_ended < runner->n_threads)
        runner->fault = RUNNER_STUCK;
    const bool shared_good = check_shared(runner);
    if (runner->fault == RUNNER_FINE && !shared_good)
        runner->fault = RUNNER_OVERRUN;
    return runner->fault == RUNNER_FINE;
}

static const char *meeting_text(uint32_t meeting)
{
    switch (meeting) {
    case SIMT_BARRIER:
        return "__syncthreads";
    case SIMT_SYNC_LANES:
        return "gpu_sync_lanes";
    case SIMT_MMA:
        return "gpu_mma";
    default:
        return "gpu_shuffle";
    }
}

static void tell_waiting(const struct simt_runner *runner, char *out, size_t out_bytes)
{
    const uint32_t kinds[] = {SIMT_BARRIER, SIMT_SYNC_LANES, SIMT_MMA, SIMT_SHUFFLE};
    size_t used = 0;
    for (uint32_t kind : kinds) {
        uint32_t n = 0, first = 0;
        for (uint32_t i = 0; i < runner->n_threads; i++) {
            const uint32_t waits = runner->lanes[i].waits;
            if (waits && (waits < SIMT_SHUFFLE ? waits : static_cast<uint32_t>(SIMT_SHUFFLE)) == kind && !n++)
                first = i;
        }
        if (n && used < out_bytes)
            used += static_cast<size_t>(snprintf(
                out + used, out_bytes - used, "%s%u of %u threads wait at %s (the first is thread %u)",
                used ? ", " : "", n, runner->n_threads, meeting_text(kind), first));
    }
    if (used < out_bytes)
        snprintf(out + used, out_bytes - used, ", %u have ended", runner->n_ended);
}

void runner_tell(const struct simt_runner *runner, const char *kernel, char *out, size_t out_bytes)
{
    const uint3 block = runner->place.block;
    char where[256], what[512];
    snprintf(where, sizeof where, "kernel %s, block (%u, %u, %u)", kernel, block.x, block.y, block.z);
    const struct simt_lane *lane = runner->fault_lane;
    char thread[64] = "";
    if (runner->fault != RUNNER_FINE && runner->fault != RUNNER_STUCK && runner->fault != RUNNER_OVERRUN &&
        lane)
        snprintf(thread, sizeof thread, ", thread (%u, %u, %u)", lane->thread.x, lane->thread.y,
                 lane->thread.z);
    switch (runner->fault) {
    case RUNNER_STUCK:
        tell_waiting(runner, what, sizeof what);
        break;
    case RUNNER_ACCESS:
        snprintf(what, sizeof what, "%s memory at 0x%llx that is not the device's",
                 runner->access == 2   ? "wrote"
                 : runner->access == 1 ? "read"
                                       : "touched",
                 static_cast<unsigned long long>(runner->address));
        break;
    case RUNNER_DIVISION:
        snprintf(what, sizeof what, "divided an integer by zero");
        break;
    case RUNNER_TRAPPED:
        snprintf(what, sizeof what, "came to a trap");
        break;
    case RUNNER_STACK:
        snprintf(what, sizeof what, "its local variables need more than %d bytes", FIBRE_STACK_BYTES);
        break;
    case RUNNER_OVERRUN:
        snprintf(what, sizeof what, "wrote beyond the shared memory '%s'",
                 runner->array ? runner->array : "");
        break;
    case RUNNER_MEETING:
        snprintf(what, sizeof what, "came to another exchange than threads of its group that wait at %s",
                 meeting_text(lane->group->meeting));
        break;
    case RUNNER_SHARED_ORDER:
        snprintf(what, sizeof what, "declared other shared memory than threads before it");
        break;
    case RUNNER_SHARED_SIZE:
        snprintf(what, sizeof what, "declared more than %d bytes or %d arrays of shared memory",
                 SIMT_SHARED_BYTES, SIMT_ARRAYS);
        break;
    default:
        snprintf(what, sizeof what, "no memory of the host is left for its threads");
        break;
    }
    snprintf(out, out_bytes, "%s%s: %s", where, thread, what);
}

// ---- a thread's runner

struct simt_runner *runner_begin()
{
    struct simt_runner *runner = static_cast<struct simt_runner *>(aligned_alloc(
        alignof(struct simt_runner), round_up(sizeof(struct simt_runner), alignof(struct simt_runner))));
    if (!runner)
        return NULL;
    memset(static_cast<void *>(runner), 0, sizeof *runner);
    const size_t page = static_cast<size_t>(getpagesize());
    runner->arena_bytes = round_up(SIMT_SHARED_BYTES + (SIMT_ARRAYS + 1) * (SIMT_RED_BYTES + 16), page);
    char *map = static_cast<char *>(mmap(NULL, runner->arena_bytes + 2 * page, PROT_NONE,
                                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    runner->stacks = static_cast<char *>(mmap(NULL, SIMT_THREADS * static_cast<size_t>(FIBRE_SLOT_BYTES),
                                              PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    if (map != MAP_FAILED)
        runner->arena = map + page;
    if (map == MAP_FAILED || runner->stacks == MAP_FAILED ||
        mprotect(runner->arena, runner->arena_bytes, PROT_READ | PROT_WRITE) != 0) {
        if (map != MAP_FAILED)
            munmap(map, runner->arena_bytes + 2 * page);
        if (runner->stacks != MAP_FAILED)
            munmap(runner->stacks, SIMT_THREADS * static_cast<size_t>(FIBRE_SLOT_BYTES));
        free(runner);
        return NULL;
    }
    fibre_of_thread(&runner->main);
    trap_thread_begin(runner->signal_stack, sizeof runner->signal_stack);
    here = runner;
    return runner;
}

void runner_end(struct simt_runner *runner)
{
    if (!runner)
        return;
    for (uint32_t i = 0; i < runner->n_idle; i++) {
        runner->idle[i]->lane = NULL;
        fibre_switch(&runner->main, runner->idle[i]);
    }
    for (uint32_t i = 0; i < runner->n_fibres; i++)
        fibre_end(&runner->fibres[i]);
    here = NULL;
    trap_thread_end();
    const size_t page = static_cast<size_t>(getpagesize());
    munmap(runner->arena - page, runner->arena_bytes + 2 * page);
    munmap(runner->stacks, SIMT_THREADS * static_cast<size_t>(FIBRE_SLOT_BYTES));
    free(runner);
}
