// Cells are independent of each other and handed out in their order. When one fails, those before it are
// still simulated: so the failure that is told is the same however many run at once.
#include "tools/sim_sweep.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct run {
    struct sim_sweep *sweep;
    const struct sim_request *request;
    size_t n_cells, n_done;
    size_t failed_at; // the first cell that has failed, SIZE_MAX: none
    struct lode_error *error;
    struct budget_state {
        bool refused;  // before anything ran
        size_t why_of; // the cell that `why` is of, SIZE_MAX: none
    } * budgets;       // [n_budgets]
};

// ---- rows
// ----------------------------------------------------------------------------------------------------

static int make_rows(struct sim_sweep *s, const struct sim_request *q, struct lode_error *error)
{
    const uint32_t n_predictors = q->slots_mode ? 1 : q->n_predictors;
    s->n_rows = q->n_policies * n_predictors + q->bounds;
    s->rows = calloc(s->n_rows, sizeof *s->rows);
    s->cells = calloc((size_t)s->n_rows * s->n_budgets * s->n_traces, sizeof *s->cells);
    if (!s->rows || !s->cells)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for %u rows of %u budgets and %u traces",
                         s->n_rows, s->n_budgets, s->n_traces);
    for (uint32_t r = 0; r < s->n_rows; r++) {
        struct sim_row *row = &s->rows[r];
        *row = (struct sim_row){SIM_ROW_POLICY, NULL, "none"};
        if (r == q->n_policies * n_predictors) {
            row->kind = q->slots_mode ? SIM_ROW_BELADY : SIM_ROW_ORACLE;
            row->policy = sim_row_kind_name(row->kind);
            continue;
        }
        const struct predictor_ops *predictor = q->slots_mode ? NULL : q->predictors[r % n_predictors];
        row->policy = q->policies[r / n_predictors]->name;
        if (predictor)
            row->predictor = predictor->name;
    }
    for (uint32_t r = 0; r < s->n_rows; r++)
        for (uint32_t b = 0; b < s->n_budgets; b++)
            for (uint32_t t = 0; t < s->n_traces; t++) {
                struct sim_cell *cell = sim_cell_at(s, r, b, t);
                cell->row = r;
                cell->budget = b;
                cell->trace = t;
            }
    return LODE_OK;
}

// ---- budgets
// -------------------------------------------------------------------------------------------------

static struct simulation_question budget_question(const struct sim_request *q,
                                                  const struct sim_budget *budget)
{
    struct simulation_question question = q->question;
    question.weights_bytes = budget->weights_bytes;
    question.context = budget->context;
    question.batch = budget->batch;
    question.ring_bytes = budget->ring_bytes;
    question.heat = q->traces->heat;
    question.fit = q->traces->learned;
    question.n_fit = q->traces->n_learned;
    question.keep_going = q->keep_going;
    question.user = q->user;
    return question;
}

static void tell_why(struct sim_budget *budget, const struct lode_error *error)
{
    snprintf(budget->why, sizeof budget->why, "%.*s", (int)sizeof budget->why - 1, error->text);
}

// How much memory there is for weights, once for all that is simulated with a budget.
static int settle_budget(struct sim_budget *budget, const struct sim_request *q, struct lode_error *error)
{
    budget->context = q->question.context ? q->question.context : q->traces->context;
    budget->batch = q->question.batch;
    budget->ring_bytes = q->question.ring_bytes;
    if (!budget->ram_bytes) {
        budget->weights_bytes = simulation_share_bytes(q->model, budget->share);
        return LODE_OK;
    }
    struct simulation_question question = budget_question(q, budget);
    for (uint32_t i = 0; i < q->n_predictors; i++) // room for what is read ahead, where any row does
        question.predictor = q->predictors[i] ? q->predictors[i] : question.predictor;
    const int code = simulation_plan(&question, q->model, budget->ram_bytes, error);
    if (code == LODE_ERR_MEMORY) {
        tell_why(budget, error);
        return LODE_OK;
    }
    budget->weights_bytes = question.weights_bytes;
    budget->context = question.context;
    budget->batch = question.batch;
    budget->ring_bytes = question.ring_bytes;
    return code;
}

// ---- cells
// ---------------------------------------------------------------------------------------------------

static int simulate_slots(struct sim_cell *cell, const struct run *run, struct lode_error *error)
{
    const struct sim_request *q = run->request;
    const struct sim_row *row = &run->sweep->rows[cell->row];
    const struct trace *trace = &q->traces->traces[cell->trace];
    struct slot_sim slots = q->slots;
    slots.slots = run->sweep->budgets[cell->budget].slots;
    slots.heat = q->traces->heat;
    struct slot_hits hits = {0};
    const int code = row->kind == SIM_ROW_BELADY
                         ? slot_sim_belady(&hits, &slots, trace, error)
                         : slot_sim_run(&hits, &slots, trace, q->policies[cell->row], error);
    cell->choices = hits.choices;
    cell->hits = hits.hits;
    cell->missed_bytes = hits.missed_bytes;
    return code;
}

static int simulate_memory(struct sim_cell *cell, const struct run *run, struct lode_error *error)
{
    const struct sim_request *q = run->request;
    const struct sim_row *row = &run->sweep->rows[cell->row];
    const struct trace *trace = &q->traces->traces[cell->trace];
    struct simulation_question question = budget_question(q, &run->sweep->budgets[cell->budget]);
    if (row->kind == SIM_ROW_ORACLE)
        return simulate_bounds(&cell->result, q->model, trace, &question, error);
    question.policy = q->policies[cell->row / q->n_predictors];
    question.predictor = q->predictors[cell->row % q->n_predictors];
    return simulate(&cell->result, q->model, trace, &question, error);
}

// Of the budget the text of its first cell counts, for the same reason as with failures.
static void note_failure(struct run *run, size_t index, const struct lode_error *error)
{
    struct sim_cell *cell = &run->sweep->cells[index];
    cell->failed = true;
    if (error->code == LODE_ERR_MEMORY && !run->request->slots_mode) {
        struct budget_state *state = &run->budgets[cell->budget];
        if (index < state->why_of) {
            state->why_of = index;
            tell_why(&run->sweep->budgets[cell->budget], error);
        }
    } else if (index < run->failed_at) {
        run->failed_at = index;
        *run->error = *error;
    }
}

static bool shall_run(struct run *run, size_t index)
{
    bool yes;
#pragma omp critical(sim_sweep)
    yes = index < run->failed_at;
    return yes && (!run->request->keep_going || run->request->keep_going(run->request->user));
}

static void run_cell(struct run *run, size_t index)
{
    struct sim_cell *cell = &run->sweep->cells[index];
    struct lode_error error = {0};
    int code = 0;
    if (run->budgets[cell->budget].refused)
        cell->failed = true;
    else
        code =
            run->request->slots_mode ? simulate_slots(cell, run, &error) : simulate_memory(cell, run, &error);
#pragma omp critical(sim_sweep)
    {
        if (code)
            note_failure(run, index, &error);
        run->n_done++;
        if (run->request->on_progress &&
            !run->request->on_progress(run->request->user, "simulating", run->n_done, run->n_cells) &&
            run->failed_at > 0) {
            run->failed_at = 0;
            lode_fail(run->error, LODE_ERR_CANCELLED, "interrupted");
        }
    }
}

static void run_cells(struct run *run)
{
    const uint32_t jobs = run->request->jobs ? run->request->jobs : (uint32_t)omp_get_num_procs();
#pragma omp parallel for schedule(dynamic, 1) num_threads(jobs)
    for (size_t i = 0; i < run->n_cells; i++)
        if (shall_run(run, i))
            run_cell(run, i);
    if (run->request->keep_going && !run->request->keep_going(run->request->user)) {
        run->failed_at = 0;
        lode_fail(run->error, LODE_ERR_CANCELLED, "interrupted");
    }
}

static double now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

int sim_sweep_run(struct sim_sweep *s, const struct sim_request *q, struct lode_error *error)
{
    const double started_s = now_s();
    struct lode_error failure = {0};
    struct run run = {.sweep = s, .request = q, .failed_at = SIZE_MAX, .error = &failure};
    int code = make_rows(s, q, error);
    run.n_cells = (size_t)s->n_rows * s->n_budgets * s->n_traces;
    run.budgets = calloc(s->n_budgets, sizeof *run.budgets);
    if (!code && !run.budgets)
        code = lode_fail(error, LODE_ERR_MEMORY, "no memory for %u budgets", s->n_budgets);
    for (uint32_t b = 0; b < s->n_budgets && !code; b++) {
        code = q->slots_mode ? LODE_OK : settle_budget(&s->budgets[b], q, error);
        run.budgets[b] = (struct budget_state){s->budgets[b].why[0] != '\0', SIZE_MAX};
    }
    if (!code) {
        run_cells(&run);
        if (run.failed_at != SIZE_MAX)
            code = lode_fail(error, failure.code, "%s", failure.text);
    }
    free(run.budgets);
    s->elapsed_s = now_s() - started_s;
    if (code)
        sim_sweep_free(s);
    return code;
}

void sim_sweep_free(struct sim_sweep *sweep)
{
    free(sweep->rows);
    free(sweep->cells);
    sweep->rows = NULL;
    sweep->cells = NULL;
    sweep->n_rows = 0;
}
