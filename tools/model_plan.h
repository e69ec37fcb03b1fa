// A run as it was planned: --plan, this machine's profile, the settings that a plan fills in where neither
// the command line nor `lode tune` has, and what it says the run will be.
#ifndef LODE_TOOLS_MODEL_PLAN_H
#define LODE_TOOLS_MODEL_PLAN_H

#include "tools/machine.h"
#include "tools/options.h"
#include "tools/prediction.h"

struct model_options;

enum model_plan_mode { MODEL_PLAN_AUTO, MODEL_PLAN_ON, MODEL_PLAN_OFF };

extern const char *const model_plan_choices[]; // in the order of the enum

// Starts as {0}, of a command that plans; released by model_plan_close.
struct model_plan {
    int mode; // of the command line
    // What the command knows of the turn; 0: nothing. It may know better when the session is opened.
    uint32_t prompt_tokens, generated_tokens;
    bool is_silent;   // nothing is predicted: the command does other work than a turn
    bool keeps_batch; // prefill steps are those of the command line or the default's
    // It was made before, for the same devices and session: engines take from it where units go and the
    // profile, and nothing is planned, predicted or filled in any more.
    bool is_settled;

    bool made;
    struct lode_plan plan;
    struct prediction prediction; // its plan is NULL where none was made

    // Of a plan with GPUs: what it puts there, as struct lode_engine_options takes it; else NULL.
    uint8_t *unit_gpu;
    uint32_t n_unit_gpu;

    struct machine machine;
    struct lode_plan_options asked; // what the plan was made for
    uint32_t given_batch;
    bool teaches; // the run is as the profile was measured
};

// An entry of the option table, and its line in the help; `p` is a struct model_plan.
#define MODEL_PLAN_OPTION(p) OPTION_IS_CHOICE("plan", &(p).mode, model_plan_choices)
#define MODEL_PLAN_USAGE                                                                                     \
    "  --plan auto|on|off    settings and expected speed, from what lode probe measured\n"

// Before the engine is opened: finds this machine's profile, or measures it where that is worth it, plans,
// and fills in what `options` leaves open. Fails only with LODE_ERR_CANCELLED, or where --plan on asks for
// what is not possible; anything else is a note.
int model_plan_begin(struct model_options *options, const char *command, struct lode_error *error);

// Before the session is opened, whose context is known unless it is 0: plans anew with what is known by now.
void model_plan_settle(struct model_options *options, uint32_t context);

// When it has been opened: tells what is expected. `context` is the session's.
void model_plan_tell(struct model_options *options, const char *command, uint32_t context);

// After the last turn: what they teach goes into the profile. That it cannot be written is a note.
void model_plan_learn(struct model_plan *plan, const struct lode_session *session, const char *command);

void model_plan_close(struct model_plan *plan);

#endif
