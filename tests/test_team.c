// The team: every task once, whatever the number of threads, however long they slept in between.
#include "backends/cpu/team.h"

#include <criterion/criterion.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MAX_TASKS 1000
#define MAX_THREADS 8

struct job {
    _Atomic uint32_t runs[MAX_TASKS];
    uint32_t next_of_thread[MAX_THREADS];
    _Atomic uint32_t out_of_order, strangers;
    uint32_t threads;
};

static void count_task(const void *call, uint32_t task, uint32_t thread)
{
    struct job *job = (struct job *)(uintptr_t)call;
    atomic_fetch_add(&job->runs[task], 1);
    if (thread >= job->threads) {
        atomic_fetch_add(&job->strangers, 1);
        return;
    }
    if (task < job->next_of_thread[thread])
        atomic_fetch_add(&job->out_of_order, 1);
    job->next_of_thread[thread] = task + 1;
}

static void run_and_check(struct cpu_team *team, uint32_t n_tasks)
{
    static struct job job;
    memset(&job, 0, sizeof job);
    job.threads = cpu_team_threads(team);
    cpu_team_run(team, n_tasks, count_task, &job);
    for (uint32_t t = 0; t < MAX_TASKS; t++)
        cr_assert_eq(job.runs[t], t < n_tasks ? 1u : 0u, "task %u of %u ran %u times", t, n_tasks,
                     job.runs[t]);
    cr_assert_eq(job.out_of_order, 0u);
    cr_assert_eq(job.strangers, 0u);
}

static struct cpu_team *open_team(uint32_t threads)
{
    struct cpu_team *team;
    struct lode_error error;
    cr_assert_eq(cpu_team_open(&team, threads, &error), LODE_OK);
    return team;
}

static void run_many_jobs(void *user)
{
    for (uint32_t i = 0; i < 3000; i++)
        run_and_check(user, i % 40);
    run_and_check(user, MAX_TASKS);
}

Test(team, runs_every_task_once_and_in_rising_order_for_each_thread)
{
    for (uint32_t threads = 1; threads <= MAX_THREADS; threads = threads * 2 + (threads == 1)) {
        struct cpu_team *team = open_team(threads);
        cpu_team_pass(team, run_many_jobs, team);
        cpu_team_close(team);
    }
}

Test(team, runs_jobs_outside_of_a_pass_too)
{
    struct cpu_team *team = open_team(3);
    for (uint32_t i = 0; i < 50; i++)
        run_and_check(team, i);
    cpu_team_close(team);
}

static void nap(long us)
{
    nanosleep(&(struct timespec){0, us * 1000}, NULL);
}

static void run_jobs_with_pauses(void *user)
{
    static const long pauses_us[] = {0, 1, 20, 90, 110, 500, 3000};
    for (int round = 0; round < 20; round++)
        for (size_t p = 0; p < sizeof pauses_us / sizeof *pauses_us; p++) {
            nap(pauses_us[p]);
            run_and_check(user, 5);
        }
}

Test(team, wakes_threads_that_went_to_sleep_between_jobs)
{
    struct cpu_team *team = open_team(4);
    cpu_team_pass(team, run_jobs_with_pauses, team);
    cpu_team_close(team);
}

static void dawdle(const void *call, uint32_t task, uint32_t thread)
{
    nap(2000);
    count_task(call, task, thread);
}

Test(team, waits_in_its_sleep_for_a_task_that_takes_long)
{
    struct cpu_team *team = open_team(3);
    static struct job job;
    for (int round = 0; round < 10; round++) {
        memset(&job, 0, sizeof job);
        job.threads = 3;
        cpu_team_run(team, 4, dawdle, &job);
        for (uint32_t t = 0; t < 4; t++)
            cr_assert_eq(job.runs[t], 1u);
    }
    cpu_team_close(team);
}

static void pass_within_a_pass(void *user)
{
    cpu_team_pass(user, run_many_jobs, user);
    run_and_check(user, 7);
}

Test(team, takes_a_pass_inside_of_a_pass_for_part_of_it)
{
    struct cpu_team *team = open_team(2);
    cpu_team_pass(team, pass_within_a_pass, team);
    cpu_team_pass(team, run_many_jobs, team);
    cpu_team_close(team);
}

// A standing-by thread must not burn a core while the caller waits for something long.
static double cpu_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static void wait_long(void *user)
{
    run_and_check(user, 20);
    double start = cpu_seconds();
    nap(400000);
    cr_assert_lt(cpu_seconds() - start, 0.05);
    run_and_check(user, 20);
}

Test(team, sleeps_while_the_caller_waits)
{
    struct cpu_team *team = open_team(4);
    cpu_team_pass(team, wait_long, team);
    cpu_team_close(team);
}
