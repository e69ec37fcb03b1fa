// The threads of the device during a pass: they stand by between operations and take tasks as they come.
//
// OpenMP makes the threads and keeps them from pass to pass; a pass is one parallel region. Inside of it an
// operation is a job of tasks, which whoever is free takes in rising order. A job is done when its tasks are:
// unlike at a barrier, a thread that another process holds up is not waited for unless it has a task in hand.
#ifndef LODE_CPU_TEAM_H
#define LODE_CPU_TEAM_H

#include "backends/cpu/threads.h"

#include <stdint.h>

struct cpu_team;

int cpu_team_open(struct cpu_team **out, uint32_t threads, struct lode_error *error);
void cpu_team_close(struct cpu_team *team);

uint32_t cpu_team_threads(const struct cpu_team *team);

// Where the threads were put: the caller then keeps off the others' processors. Must outlive the team.
void cpu_team_place(struct cpu_team *team, const struct cpu_places *places);

// Runs body(user) in the calling thread while the others stand by. A pass inside of a pass is part of it.
void cpu_team_pass(struct cpu_team *team, void (*body)(void *user), void *user);

// `thread` is below the team's number of threads; 0 is the caller. A thread gets the tasks of a job in rising
// order.
typedef void (*cpu_task_fn)(const void *call, uint32_t task, uint32_t thread);

// Runs tasks 0 .. n_tasks - 1, and returns when all are done. Outside of a pass it is a pass of its own.
void cpu_team_run(struct cpu_team *team, uint32_t n_tasks, cpu_task_fn run, const void *call);

#endif
