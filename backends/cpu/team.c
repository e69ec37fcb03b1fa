// Jobs of tasks for the threads of a parallel region, and how threads wait for the next job.
//
// A job is published by one store: its generation and the number of its tasks that nobody has taken. A task
// is taken by counting that number down, which fails when the generation has changed, so a thread that comes
// late can take nothing of a job that is over.
#include "backends/cpu/team.h"

#include "base/clock.h"

#include <omp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#define CACHE_LINE 64

// How long a thread looks for work before it sleeps. Waking it takes some 5 us, 50 in a virtual machine; most
// waits within a layer are shorter, while one for a read from the drive is not worth a warm core. A thread
// that looked in vain looks half as long the next time, one whose wait was short twice as long.
#define LEAST_PATIENCE_NS 2000
#define MOST_PATIENCE_NS 100000
#define LOOKS_BETWEEN_CLOCKS 32

struct cpu_team {
    uint32_t threads;
    const struct cpu_places *places; // NULL: not known
    bool in_pass;                    // known to the calling thread only

    // The job, written before it is published and unchanged until its last task is done.
    uint32_t n_tasks;
    cpu_task_fn run;
    const void *call;

    _Alignas(CACHE_LINE) _Atomic uint64_t open_tasks; // generation << 32 | tasks that nobody has taken
    _Alignas(CACHE_LINE) _Atomic uint32_t unfinished;
    _Alignas(CACHE_LINE) _Atomic bool leaving; // the pass is over
    _Atomic uint32_t sleepers;                 // threads that wait for a job in their sleep
    _Atomic bool caller_sleeps;                // until the job is done
    pthread_mutex_t mutex;                     // of the sleeping
    pthread_cond_t job_published, job_done;
};

int cpu_team_open(struct cpu_team **out, uint32_t threads, struct lode_error *error)
{
    struct cpu_team *team = aligned_alloc(CACHE_LINE, sizeof *team);
    if (!team)
        return lode_fail(error, LODE_ERR_MEMORY, "cannot allocate the team of threads");
    *team = (struct cpu_team){.threads = threads};
    pthread_mutex_init(&team->mutex, NULL);
    pthread_cond_init(&team->job_published, NULL);
    pthread_cond_init(&team->job_done, NULL);
    *out = team;
    return LODE_OK;
}

void cpu_team_close(struct cpu_team *team)
{
    if (!team)
        return;
    pthread_cond_destroy(&team->job_done);
    pthread_cond_destroy(&team->job_published);
    pthread_mutex_destroy(&team->mutex);
    free(team);
}

uint32_t cpu_team_threads(const struct cpu_team *team)
{
    return team->threads;
}

void cpu_team_place(struct cpu_team *team, const struct cpu_places *places)
{
    team->places = places;
}

// Workers sleep when the calling thread has waited for something else, a read from the drive mostly. Whoever
// woke it may have brought it to a worker's processor, where the two take turns while another one is idle:
// 77% of the time, decoding the 26B under 4 GiB on 2 cores. Apart, its products take 110 ms a token under
// 8 GiB instead of 128.
static void keep_apart(const struct cpu_team *team)
{
    if (team->places)
        cpu_threads_part(team->places);
}

// ---- waiting

static inline void relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

// What a thread waits for: a generation other than `seen`, or the end of the job.
struct wait {
    struct cpu_team *team;
    uint32_t seen;
    bool for_end;
};

static uint32_t generation_of(uint64_t open_tasks)
{
    return (uint32_t)(open_tasks >> 32);
}

static bool has_come(const struct wait *wait)
{
    if (wait->for_end)
        return atomic_load(&wait->team->unfinished) == 0;
    return generation_of(atomic_load(&wait->team->open_tasks)) != wait->seen;
}

static void sleep_until(const struct wait *wait)
{
    struct cpu_team *team = wait->team;
    pthread_mutex_lock(&team->mutex);
    if (wait->for_end)
        atomic_store(&team->caller_sleeps, true);
    else
        atomic_fetch_add(&team->sleepers, 1);
    while (!has_come(wait))
        pthread_cond_wait(wait->for_end ? &team->job_done : &team->job_published, &team->mutex);
    if (wait->for_end)
        atomic_store(&team->caller_sleeps, false);
    else
        atomic_fetch_sub(&team->sleepers, 1);
    pthread_mutex_unlock(&team->mutex);
}

static void wake(struct cpu_team *team, pthread_cond_t *condition)
{
    pthread_mutex_lock(&team->mutex);
    pthread_cond_broadcast(condition);
    pthread_mutex_unlock(&team->mutex);
}

static void adjust_patience(uint64_t *patience_ns, uint64_t waited_ns)
{
    if (waited_ns > MOST_PATIENCE_NS)
        *patience_ns = *patience_ns / 2 > LEAST_PATIENCE_NS ? *patience_ns / 2 : LEAST_PATIENCE_NS;
    else
        *patience_ns = *patience_ns * 2 < MOST_PATIENCE_NS ? *patience_ns * 2 : MOST_PATIENCE_NS;
}

static void wait_until(const struct wait *wait, uint64_t *patience_ns)
{
    uint64_t start_ns = 0, waited_ns = 0;
    for (uint32_t looks = 0; !has_come(wait); looks++) {
        relax();
        if (looks % LOOKS_BETWEEN_CLOCKS)
            continue;
        const uint64_t now_ns = clock_now_ns();
        start_ns = start_ns ? start_ns : now_ns;
        waited_ns = now_ns - start_ns;
        if (waited_ns > *patience_ns) {
            sleep_until(wait);
            waited_ns = clock_now_ns() - start_ns;
            break;
        }
    }
    if (start_ns)
        adjust_patience(patience_ns, waited_ns);
}

// ---- jobs

static void publish(struct cpu_team *team, uint32_t n_tasks)
{
    const uint64_t generation = generation_of(atomic_load(&team->open_tasks)) + 1u;
    atomic_store(&team->open_tasks, generation << 32 | n_tasks);
    if (atomic_load(&team->sleepers)) {
        keep_apart(team);
        wake(team, &team->job_published);
    }
}

static bool take_task(struct cpu_team *team, uint32_t *task)
{
    uint64_t open = atomic_load(&team->open_tasks);
    while ((uint32_t)open)
        if (atomic_compare_exchange_weak(&team->open_tasks, &open, open - 1)) {
            *task = team->n_tasks - (uint32_t)open;
            return true;
        }
    return false;
}

static void work(struct cpu_team *team, uint32_t thread)
{
    for (uint32_t task; take_task(team, &task);) {
        team->run(team->call, task, thread);
        if (atomic_fetch_sub(&team->unfinished, 1) == 1 && atomic_load(&team->caller_sleeps))
            wake(team, &team->job_done);
    }
}

static void stand_by(struct cpu_team *team, uint32_t thread, uint32_t seen)
{
    uint64_t patience_ns = MOST_PATIENCE_NS;
    for (;;) {
        wait_until(&(struct wait){.team = team, .seen = seen}, &patience_ns);
        seen = generation_of(atomic_load(&team->open_tasks));
        if (atomic_load(&team->leaving))
            return;
        work(team, thread);
    }
}

void cpu_team_pass(struct cpu_team *team, void (*body)(void *user), void *user)
{
    if (team->in_pass || team->threads == 1) {
        body(user);
        return;
    }
    const uint32_t seen = generation_of(atomic_load(&team->open_tasks));
    team->in_pass = true;
    keep_apart(team);
    atomic_store(&team->leaving, false);
#pragma omp parallel num_threads(team->threads)
    {
        const uint32_t thread = (uint32_t)omp_get_thread_num();
        if (thread > 0) {
            stand_by(team, thread, seen);
        } else {
            body(user);
            atomic_store(&team->leaving, true);
            publish(team, 0);
        }
    }
    team->in_pass = false;
}

struct lone_job {
    struct cpu_team *team;
    uint32_t n_tasks;
    cpu_task_fn run;
    const void *call;
};

static void run_lone_job(void *user)
{
    const struct lone_job *job = user;
    cpu_team_run(job->team, job->n_tasks, job->run, job->call);
}

void cpu_team_run(struct cpu_team *team, uint32_t n_tasks, cpu_task_fn run, const void *call)
{
    if (team->threads == 1 || n_tasks < 2) {
        for (uint32_t task = 0; task < n_tasks; task++)
            run(call, task, 0);
        return;
    }
    if (!team->in_pass) {
        cpu_team_pass(team, run_lone_job, &(struct lone_job){team, n_tasks, run, call});
        return;
    }
    team->n_tasks = n_tasks;
    team->run = run;
    team->call = call;
    atomic_store(&team->unfinished, n_tasks);
    publish(team, n_tasks);
    work(team, 0);
    uint64_t patience_ns = MOST_PATIENCE_NS;
    wait_until(&(struct wait){.team = team, .for_end = true}, &patience_ns);
}
