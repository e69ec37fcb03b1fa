// The screen of a plan: some forty lines of at most 80 columns, more with more than two GPUs.
#include "tools/plan_report.h"

#include "tools/plan_layers.h"
#include "tools/text.h"

#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define COLUMNS 80
#define MOST_REFUSED 4    // the best of them; --json has all
#define NOTED_CHANGE 0.05 // of prefill

// ---- pieces
// --------------------------------------------------------------------------------------------------

// Breaks between words; the lines after the first are indented.
static void print_wrapped(FILE *out, const char *text, int indent)
{
    size_t column = 0;
    while (*text) {
        const size_t spaces = strspn(text, " "), word = strcspn(text + spaces, " ");
        if (column && column + spaces + word > COLUMNS) {
            fprintf(out, "\n%*s%.*s", indent, "", (int)word, text + spaces);
            column = (size_t)indent + word;
        } else {
            fprintf(out, "%.*s", (int)(spaces + word), text);
            column += spaces + word;
        }
        text += spaces + word;
    }
    fputc('\n', out);
}

// As many digits as say something: 0.42, 6.1, 147.4, 2350.
static const char *rate_text(char text[TEXT_NUMBER_SIZE], double tok_s)
{
    snprintf(text, TEXT_NUMBER_SIZE, "%.*f", tok_s < 0.995 ? 2 : tok_s < 999.95 ? 1 : 0, tok_s);
    return text;
}

// At most nine characters up to 9999.9 of a unit, so that columns of ten never touch.
static const char *column_text(char text[TEXT_NUMBER_SIZE], uint64_t bytes)
{
    if (!bytes)
        return "-";
    text_bytes(text, bytes);
    char *point = strchr(text, '.');
    if (strlen(text) > 9 && point)
        memmove(point, point + 2, strlen(point + 2) + 1);
    return text;
}

// ---- head
// ----------------------------------------------------------------------------------------------------

static void print_head(FILE *out, const struct lode_plan *plan)
{
    char bytes[TEXT_NUMBER_SIZE], name[128], line[512];
    fprintf(out, "model    %s, %s, %s\n", text_printable(name, sizeof name, plan->shape.name),
            plan->shape.type, text_bytes(bytes, plan->shape.weight_bytes));
    snprintf(line, sizeof line, "machine  %s (%s)", text_printable(name, sizeof name, plan->machine),
             plan->measured ? "measured" : "not measured");
    size_t used = strlen(line);
    if (plan->cpu[0] && strcmp(plan->cpu, plan->machine) != 0)
        used += (size_t)snprintf(line + used, sizeof line - used, ", %s",
                                 text_printable(name, sizeof name, plan->cpu));
    if (plan->drive[0])
        snprintf(line + used, sizeof line - used, ", %s", text_printable(name, sizeof name, plan->drive));
    print_wrapped(out, line, 9);
    for (uint32_t g = 0; g < plan->n_gpus; g++)
        if (plan_uses_gpu(plan, g))
            fprintf(out, "GPU%-5" PRIu32 " %s\n", g, text_printable(name, sizeof name, plan->gpus[g].name));
    used = (size_t)snprintf(line, sizeof line,
                            "settings %" PRIu32 " thread%s, prefill in steps of %" PRIu32 " tokens",
                            plan->threads, plan->threads == 1 ? "" : "s", plan->batch);
    if (plan->ring_bytes)
        used += (size_t)snprintf(line + used, sizeof line - used, ", ring of %s",
                                 text_bytes(bytes, plan->ring_bytes));
    if (plan->shape.n_experts)
        snprintf(line + used, sizeof line - used, ", %s", plan->prefetch ? "prefetch" : "no prefetch");
    print_wrapped(out, line, 9);
}

// ---- memory
// --------------------------------------------------------------------------------------------------

// A line of the table; what is 0 is a dash.
struct row {
    uint64_t bytes, gpu_bytes[LODE_PLAN_GPUS], ram_bytes, nvme_bytes;
};

static void print_row(FILE *out, const struct lode_plan *plan, const char *name, uint64_t units,
                      const struct row *row)
{
    char text[TEXT_NUMBER_SIZE], count[TEXT_NUMBER_SIZE] = "";
    if (units)
        snprintf(count, sizeof count, "%" PRIu64, units);
    fprintf(out, "%-21s %5s%10s", name, count, column_text(text, row->bytes));
    for (uint32_t g = 0; g < plan->n_gpus; g++)
        if (plan_uses_gpu(plan, g))
            fprintf(out, "%10s", column_text(text, row->gpu_bytes[g]));
    fprintf(out, "%10s", column_text(text, row->ram_bytes));
    fprintf(out, "%10s\n", column_text(text, row->nvme_bytes));
}

static void add_row(struct row *sum, const struct row *row)
{
    sum->bytes += row->bytes;
    sum->ram_bytes += row->ram_bytes;
    sum->nvme_bytes += row->nvme_bytes;
    for (uint32_t g = 0; g < LODE_PLAN_GPUS; g++)
        sum->gpu_bytes[g] += row->gpu_bytes[g];
}

static void print_memory(FILE *out, const struct lode_plan *plan, const char *kv)
{
    struct row sum = {0}, ceilings = {.ram_bytes = plan->ceiling_bytes};
    struct row fixed[] = {{.ram_bytes = plan->kv_bytes},
                          {.ram_bytes = plan->scratch_bytes},
                          {.ram_bytes = plan->buffer_bytes},
                          {.ram_bytes = plan->program_bytes}};
    char name[64];
    fprintf(out, "\n%-21s %5s%10s", "group", "units", "weights");
    for (uint32_t g = 0; g < plan->n_gpus; g++) {
        snprintf(name, sizeof name, "GPU%" PRIu32, g);
        if (plan_uses_gpu(plan, g))
            fprintf(out, "%10s", name);
        fixed[0].gpu_bytes[g] = plan->gpus[g].kv_bytes;
        fixed[1].gpu_bytes[g] = plan->gpus[g].scratch_bytes;
        ceilings.gpu_bytes[g] = plan->gpus[g].ceiling_bytes;
    }
    fprintf(out, "%10s%10s\n", "RAM", "NVMe");
    for (uint32_t i = 0; i < plan->n_groups; i++) {
        const struct lode_plan_group *group = &plan->groups[i];
        struct row row = {
            .bytes = group->bytes, .ram_bytes = group->ram_bytes, .nvme_bytes = group->nvme_bytes};
        memcpy(row.gpu_bytes, group->gpu_bytes, sizeof row.gpu_bytes);
        print_row(out, plan, group->kind, group->units, &row);
        add_row(&sum, &row);
    }
    snprintf(name, sizeof name, "KV %s, %" PRIu32 " tokens", kv, plan->context);
    const char *const names[] = {name, "scratch", "reading buffers", "program and reserve"};
    for (size_t i = 0; i < sizeof fixed / sizeof *fixed; i++) {
        if (i != 2 || plan->buffer_bytes)
            print_row(out, plan, names[i], 0, &fixed[i]);
        add_row(&sum, &fixed[i]);
    }
    print_row(out, plan, "all", 0, &sum);
    print_row(out, plan, "ceiling", 0, &ceilings);
}

// ---- speed
// ---------------------------------------------------------------------------------------------------

struct share {
    const char *name;
    double share;
};

static int compare_shares(const void *a, const void *b)
{
    const double left = ((const struct share *)a)->share, right = ((const struct share *)b)->share;
    return left < right ? 1 : left > right ? -1 : 0;
}

// The largest first, and those above a twentieth as far as the line goes.
static void print_shares(FILE *out, const struct lode_plan_shares *shares, int column)
{
    struct share all[] = {{"cpu kernels", shares->kernels},
                          {"attention", shares->attention},
                          {"gpu", shares->gpu},
                          {"drive", shares->drive},
                          {"link", shares->link},
                          {"small operations", shares->operations}};
    const size_t n_all = sizeof all / sizeof *all;
    qsort(all, n_all, sizeof *all, compare_shares);
    for (size_t i = 0; i < n_all && (i == 0 || all[i].share >= 0.05); i++) {
        char text[64];
        const int len =
            snprintf(text, sizeof text, "%s%s %.0f%%", i ? ", " : "", all[i].name, 100 * all[i].share);
        if (i && column + len > COLUMNS)
            break;
        fputs(text, out);
        column += len;
    }
}

static void print_speed(FILE *out, uint32_t context, const char *phase, double tok_s, double low, double high,
                        const struct lode_plan_shares *shares)
{
    char range[2 * TEXT_NUMBER_SIZE + 8], rate[TEXT_NUMBER_SIZE], from[TEXT_NUMBER_SIZE],
        to[TEXT_NUMBER_SIZE];
    snprintf(range, sizeof range, "%s - %s", rate_text(from, low), rate_text(to, high));
    const int column =
        fprintf(out, "%7" PRIu32 " %-8s%8s %15s  ", context, phase, rate_text(rate, tok_s), range);
    print_shares(out, shares, column);
    fputc('\n', out);
}

static void print_reads(FILE *out, const struct lode_plan_expected *expected)
{
    char bytes[TEXT_NUMBER_SIZE];
    if (expected->read_bytes_per_token < 1)
        return;
    fprintf(out, "A token reads %s from the drive",
            text_bytes(bytes, (uint64_t)expected->read_bytes_per_token));
    if (expected->hit_rate < 1)
        fprintf(out, "; %.0f%% of its experts are in memory", 100 * expected->hit_rate);
    fprintf(out, ".\n");
}

static void print_expected(FILE *out, const struct lode_plan *plan)
{
    fprintf(out, "\n%7s %-8s%8s %15s  %s\n", "context", "phase", "tok/s", "from - to", "limited by");
    for (uint32_t i = 0; i < plan->n_expected; i++) {
        const struct lode_plan_expected *e = &plan->expected[i];
        print_speed(out, e->context, "decode", e->decode_tok_s, e->decode_low, e->decode_high, &e->decode);
        print_speed(out, e->context, "prefill", e->prefill_tok_s, e->prefill_low, e->prefill_high,
                    &e->prefill);
    }
    if (plan->n_expected)
        print_reads(out, &plan->expected[0]);
}

// ---- advice
// --------------------------------------------------------------------------------------------------

// "6.1 -> 9.8 tok/s (+61%)"
static int gain_text(char *out, size_t capacity, double before, double after, const char *unit)
{
    char from[TEXT_NUMBER_SIZE], to[TEXT_NUMBER_SIZE];
    int len = snprintf(out, capacity, "%s -> %s%s", rate_text(from, before), rate_text(to, after), unit);
    if (before > 0)
        len += snprintf(out + len, capacity - (size_t)len, " (%+.0f%%)", 100 * (after / before - 1));
    return len;
}

static bool differs(double before, double after, double least)
{
    return fabs(after / before - 1) >= least;
}

// What is the same before and after is left out.
static void print_change(FILE *out, const struct lode_plan_expected *now,
                         const struct lode_plan_change *change)
{
    char what[128], gain[128], line[400];
    int used = snprintf(line, sizeof line, "  %s: ", text_printable(what, sizeof what, change->what));
    const bool prefill = differs(now->prefill_tok_s, change->prefill_tok_s, NOTED_CHANGE);
    const bool decode = !prefill || differs(now->decode_tok_s, change->decode_tok_s, 0.005);
    if (decode) {
        gain_text(gain, sizeof gain, now->decode_tok_s, change->decode_tok_s, " tok/s");
        used += snprintf(line + used, sizeof line - (size_t)used, "%s%s", gain, prefill ? ", " : "");
    }
    if (prefill) {
        gain_text(gain, sizeof gain, now->prefill_tok_s, change->prefill_tok_s, decode ? "" : " tok/s");
        used += snprintf(line + used, sizeof line - (size_t)used, "prefill %s", gain);
    }
    if (change->lossy)
        snprintf(line + used, sizeof line - (size_t)used, "; changes the answers");
    print_wrapped(out, line, 4);
}

static void print_changes(FILE *out, const struct lode_plan *plan)
{
    if (!plan->n_changes || !plan->n_expected)
        return;
    fprintf(out, "\nwhat would help most\n");
    for (uint32_t i = 0; i < plan->n_changes; i++)
        print_change(out, &plan->expected[0], &plan->changes[i]);
}

static void print_refused(FILE *out, const struct lode_plan *plan)
{
    const uint32_t n_shown = plan->n_refused < MOST_REFUSED ? plan->n_refused : MOST_REFUSED;
    int width = 0;
    if (!n_shown)
        return;
    fprintf(out, "\nconsidered and refused");
    if (n_shown < plan->n_refused)
        fprintf(out, " (%" PRIu32 " of %" PRIu32 ")", n_shown, plan->n_refused);
    fputc('\n', out);
    for (uint32_t i = 0; i < n_shown; i++) {
        const int len = (int)strlen(plan->refused[i].what);
        width = len > width ? len : width;
    }
    for (uint32_t i = 0; i < n_shown; i++) {
        const struct lode_plan_refused *refused = &plan->refused[i];
        char what[128], rate[TEXT_NUMBER_SIZE];
        fprintf(out, "  %-*s ", width, text_printable(what, sizeof what, refused->what));
        if (refused->fits)
            fprintf(out, "%7s tok/s, turn +%.*f%%\n", rate_text(rate, refused->decode_tok_s),
                    refused->turn_longer < 0.1 ? 1 : 0, 100 * refused->turn_longer);
        else
            fprintf(out, "does not fit\n");
    }
}

void plan_report_text(FILE *out, const struct lode_plan *plan, const char *kv)
{
    print_head(out, plan);
    print_memory(out, plan, kv);
    print_expected(out, plan);
    print_changes(out, plan);
    print_refused(out, plan);
    for (uint32_t i = 0; i < plan->n_warnings; i++) {
        char warning[sizeof plan->warnings[0]], line[sizeof warning + 16];
        snprintf(line, sizeof line, "warning: %s",
                 text_printable(warning, sizeof warning, plan->warnings[i]));
        if (i == 0)
            fputc('\n', out);
        print_wrapped(out, line, 9);
    }
}
