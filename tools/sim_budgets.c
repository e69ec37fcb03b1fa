// Sizes, percents and counts, each checked as an option of its own would be.
#include "tools/sim_budgets.h"

#include "placement/trace.h"
#include "tools/message.h"
#include "tools/model.h"
#include "tools/options.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_BUDGETS = 64 };

// "8 GiB", "8.5 GiB", "800 MiB".
static void name_bytes(char *out, size_t capacity, uint64_t bytes)
{
    const double gib = ldexp((double)bytes, -30);
    if (gib >= 1)
        snprintf(out, capacity, "%.4g GiB", gib);
    else
        snprintf(out, capacity, "%.4g MiB", ldexp((double)bytes, -20));
}

static int read_ram(struct sim_budget *out, const char *word, const char *command)
{
    const struct option options[] = {OPTION_IS_BYTES("ram", &out->ram_bytes, MODEL_LEAST_RAM_BYTES)};
    struct option_parser parser = {.command = command, .options = options, .n_options = 1};
    char name[] = "sim", argument[128] = "";
    char *arguments[] = {name, argument, NULL};
    int code = EXIT_OK;
    if ((size_t)snprintf(argument, sizeof argument, "--ram=%s", word) >= sizeof argument)
        return message_usage(command, "--ram: '%.32s…' is no size", word);
    if (!options_parse(&parser, 2, arguments, &code))
        return code;
    if (!out->ram_bytes)
        return message_usage(command, "--ram '%s': must be a size, as 8G", word);
    name_bytes(out->text, sizeof out->text, out->ram_bytes);
    return EXIT_OK;
}

static int read_share(struct sim_budget *out, const char *word, const char *command)
{
    char *end;
    const double percent = strtod(word, &end);
    if (end == word || (*end && strcmp(end, "%") != 0) || !(percent >= 0 && percent <= 100))
        return message_usage(
            command, "--share '%s': must be a number between 0 and 100, percent of the experts", word);
    out->share = percent / 100;
    snprintf(out->text, sizeof out->text, "%.4g%%", percent);
    return EXIT_OK;
}

static int read_slots(struct sim_budget *out, const char *word, const char *command)
{
    if (!options_read_count(&out->slots, word) || out->slots < 1 || out->slots > TRACE_MAX_EXPERTS)
        return message_usage(command, "--slots '%s': must be a whole number between 1 and %d", word,
                             TRACE_MAX_EXPERTS);
    snprintf(out->text, sizeof out->text, "%u slots", out->slots);
    return EXIT_OK;
}

int sim_budgets_make(struct sim_budget **out, uint32_t *out_n, const struct word_list *ram,
                     const struct word_list *share, const struct word_list *slots, const char *command)
{
    const struct word_list *list = ram->n ? ram : share->n ? share : slots;
    if (list->n > MOST_BUDGETS)
        return message_usage(command, "%u memories; at most %d at once", list->n, MOST_BUDGETS);
    struct sim_budget *budgets = calloc((size_t)list->n + 1, sizeof *budgets);
    if (!budgets) {
        message_note(command, "no memory for %u budgets", list->n);
        return EXIT_FAILED;
    }
    int code = EXIT_OK;
    for (uint32_t i = 0; i < list->n && !code; i++)
        code = list == ram     ? read_ram(&budgets[i], list->words[i], command)
               : list == share ? read_share(&budgets[i], list->words[i], command)
                               : read_slots(&budgets[i], list->words[i], command);
    if (code) {
        free(budgets);
        return code;
    }
    *out = budgets;
    *out_n = list->n;
    return EXIT_OK;
}
