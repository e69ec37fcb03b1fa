// What the planner says of the sample machines, compared with what it said when somebody last looked:
//
//   plan_expectations            compares and prints the differences; exit 1 when there are any
//   plan_expectations --update   writes the expectations anew
//
// One file of tests/data/plans for each machine of profiles/machines, a part for each model. Bytes are exact;
// of tokens a second three digits count, and one unit of the last may differ, for compilers round
// differently.
#include "core/lode.h"

#include <ctype.h>
#include <dirent.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define MACHINES LODE_SOURCE_ROOT "/profiles/machines"
#define PLANS LODE_SOURCE_ROOT "/tests/data/plans"

static const struct {
    const char *shape, *type;
} models[] = {{"26b-a4b", "q4_0"}, {"31b", "q4_0"}, {"e2b", "q4_0"}, {"26b-a4b", "q4_k_m"}};
enum { N_MODELS = sizeof models / sizeof *models };

// ---- what a plan says
// -----------------------------------------------------------------------------------------

enum { RATE_SIZE = 32 };
static const char *rate(char out[RATE_SIZE], double tok_s)
{
    const int digits = tok_s > 0 ? (int)floor(log10(tok_s)) : 0;
    snprintf(out, RATE_SIZE, "%.*f", digits < 2 ? 2 - digits : 0, tok_s);
    return out;
}

static double mib(uint64_t bytes)
{
    return (double)bytes / (1 << 20);
}

static void put_memory(FILE *out, const struct lode_plan *plan)
{
    fprintf(out,
            "  settings  %" PRIu32 " threads, batch %" PRIu32 ", ring %.1f, %sprefetch, context %" PRIu32
            "\n",
            plan->threads, plan->batch, mib(plan->ring_bytes), plan->prefetch ? "" : "no ", plan->context);
    for (uint32_t g = 0; g < plan->n_gpus; g++)
        fprintf(out, "  gpu%" PRIu32 "      ceiling %.1f, KV %.1f, scratch %.1f: %s\n", g,
                mib(plan->gpus[g].ceiling_bytes), mib(plan->gpus[g].kv_bytes),
                mib(plan->gpus[g].scratch_bytes), plan->gpus[g].name);
    fprintf(out, "  ram       ceiling %.1f, KV %.1f, scratch %.1f, buffers %.1f, program %.1f\n",
            mib(plan->ceiling_bytes), mib(plan->kv_bytes), mib(plan->scratch_bytes), mib(plan->buffer_bytes),
            mib(plan->program_bytes));
    for (uint32_t i = 0; i < plan->n_groups; i++) {
        const struct lode_plan_group *group = &plan->groups[i];
        fprintf(out, "  weights   %s:", group->kind);
        for (uint32_t g = 0; g < plan->n_gpus; g++)
            fprintf(out, " gpu%" PRIu32 " %.1f,", g, mib(group->gpu_bytes[g]));
        fprintf(out, " ram %.1f, nvme %.1f\n", mib(group->ram_bytes), mib(group->nvme_bytes));
    }
}

static void put_speed(FILE *out, const char *phase, uint32_t context, double tok_s, double low, double high,
                      const char *limiter)
{
    char text[RATE_SIZE], from[RATE_SIZE], to[RATE_SIZE];
    fprintf(out, "  %-9s after %" PRIu32 ": %s (%s - %s), %s\n", phase, context, rate(text, tok_s),
            rate(from, low), rate(to, high), limiter);
}

static void put_advice(FILE *out, const struct lode_plan *plan)
{
    char decode[RATE_SIZE], prefill[RATE_SIZE];
    for (uint32_t i = 0; i < plan->n_changes; i++)
        fprintf(out, "  change    %s: %s, prefill %s%s\n", plan->changes[i].what,
                rate(decode, plan->changes[i].decode_tok_s), rate(prefill, plan->changes[i].prefill_tok_s),
                plan->changes[i].lossy ? ", lossy" : "");
    for (uint32_t i = 0; i < plan->n_refused; i++)
        fprintf(out, "  refused   %s: %s\n", plan->refused[i].what,
                plan->refused[i].fits ? rate(decode, plan->refused[i].decode_tok_s) : "does not fit");
    for (uint32_t i = 0; i < plan->n_warnings; i++)
        fprintf(out, "  warning   %s\n", plan->warnings[i]);
}

static void put_plan(FILE *out, const char *machine_file, const char *shape, const char *type)
{
    const struct lode_plan_options options = {.shape = shape, .type = type, .machine_file = machine_file};
    struct lode_error error = {0};
    struct lode_plan plan;
    fprintf(out, "%s %s\n", shape, type);
    if (lode_plan_make(&plan, NULL, &options, &error)) {
        fprintf(out, "  fails     %s\n", error.text);
        return;
    }
    put_memory(out, &plan);
    for (uint32_t i = 0; i < plan.n_expected; i++) {
        const struct lode_plan_expected *e = &plan.expected[i];
        put_speed(out, "decode", e->context, e->decode_tok_s, e->decode_low, e->decode_high,
                  e->decode.limiter);
        put_speed(out, "prefill", e->context, e->prefill_tok_s, e->prefill_low, e->prefill_high,
                  e->prefill.limiter);
    }
    put_advice(out, &plan);
    lode_plan_free(&plan);
}

static char *plan_text(const char *machine, const char *shape, const char *type)
{
    char *text = NULL, machine_file[4096];
    size_t len;
    FILE *out = open_memstream(&text, &len);
    if (!out)
        abort();
    snprintf(machine_file, sizeof machine_file, "%s/%s.json", MACHINES, machine);
    put_plan(out, machine_file, shape, type);
    if (fclose(out) != 0)
        abort();
    return text;
}

// [n_machines][N_MODELS], on all processors.
static void plan_all(char **texts, struct dirent **machines, int n_machines)
{
#pragma omp parallel for schedule(dynamic)
    for (int i = 0; i < n_machines * N_MODELS; i++)
        texts[i] =
            plan_text(machines[i / N_MODELS]->d_name, models[i % N_MODELS].shape, models[i % N_MODELS].type);
}

static char *join(char *const *texts)
{
    char *text = NULL;
    size_t len;
    FILE *out = open_memstream(&text, &len);
    if (!out)
        abort();
    fprintf(out,
            "# Written by scripts/update-plans. Weights and memory in MiB, speeds in tokens a second.\n");
    for (size_t i = 0; i < N_MODELS; i++)
        fputs(texts[i], out);
    if (fclose(out) != 0)
        abort();
    return text;
}

// ---- comparing
// -----------------------------------------------------------------------------------------------

enum { MAX_LINES = 1024 };
struct lines {
    uint32_t n;
    const char *line[MAX_LINES]; // each ends with a zero, in the text that was split
};

static void split(struct lines *out, char *text)
{
    out->n = 0;
    while (*text && out->n < MAX_LINES) {
        out->line[out->n++] = text;
        text += strcspn(text, "\n");
        if (*text)
            *text++ = 0;
    }
}

static bool is_speed(const char *line)
{
    static const char *const words[] = {"  decode", "  prefill", "  change", "  refused"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (strncmp(line, words[i], strlen(words[i])) == 0)
            return true;
    return false;
}

static bool same_rate(double a, double b)
{
    const double larger = a > b ? a : b;
    return a == b || (larger > 0 && fabs(a - b) <= 1.01 * pow(10, floor(log10(larger)) - 2));
}

static bool same_line(const char *a, const char *b)
{
    if (!is_speed(a))
        return strcmp(a, b) == 0;
    while (*a && *b) {
        if (isdigit((unsigned char)*a) && isdigit((unsigned char)*b)) {
            char *end_a, *end_b;
            if (!same_rate(strtod(a, &end_a), strtod(b, &end_b)))
                return false;
            a = end_a;
            b = end_b;
        } else if (*a++ != *b++) {
            return false;
        }
    }
    return *a == *b;
}

static void print_change(char sign, const char *line, const char **heading, const char *part)
{
    if (*heading != part)
        printf("  %s\n", part);
    *heading = part;
    printf("%c %s\n", sign, line);
}

// The lines that only one has, by the longest common sequence. Returns how many.
static uint32_t print_difference(const char *name, const struct lines *old, const struct lines *new)
{
    const uint32_t width = new->n + 1;
    uint16_t *common = calloc((size_t)(old->n + 1) * width, sizeof *common); // of what is behind both
    uint32_t n_different = 0;
    if (!common)
        abort();
    for (uint32_t i = old->n; i-- > 0;)
        for (uint32_t j = new->n; j-- > 0;) {
            const uint16_t skip_old = common[(i + 1) * width + j], skip_new = common[i * width + j + 1];
            common[i * width + j] = same_line(old->line[i], new->line[j])
                                        ? common[(i + 1) * width + j + 1] + 1
                                    : skip_old > skip_new ? skip_old
                                                          : skip_new;
        }
    n_different = old->n + new->n - 2u * common[0];
    if (n_different)
        printf("%s: - expected, + planned\n", name);
    const char *part = "", *heading = NULL;
    for (uint32_t i = 0, j = 0; n_different && (i < old->n || j < new->n);) {
        if (i < old->n && j < new->n &&same_line(old->line[i], new->line[j])) {
            part = old->line[i][0] == ' ' ? part : old->line[i];
            i++;
            j++;
        } else if (j == new->n || (i < old->n && common[(i + 1) * width + j] >= common[i * width + j + 1])) {
            print_change('-', old->line[i++], &heading, part);
        } else {
            print_change('+', new->line[j++], &heading, part);
        }
    }
    free(common);
    return n_different;
}

static char *read_text(const char *path)
{
    FILE *file = fopen(path, "re");
    char *text = calloc(1, 1 << 20);
    if (!text)
        abort();
    if (file) {
        text[fread(text, 1, (1 << 20) - 1, file)] = 0;
        fclose(file);
    }
    return text;
}

static void write_text(const char *path, const char *text)
{
    FILE *file = fopen(path, "we");
    if (!file || fputs(text, file) < 0 || fclose(file) != 0) {
        perror(path);
        exit(1);
    }
}

// ---- the machines
// --------------------------------------------------------------------------------------------

static bool check_machine(const char *name, char *const *texts, bool update)
{
    static struct lines old_lines, new_lines;
    char path[4096];
    snprintf(path, sizeof path, "%s/%s.txt", PLANS, name);
    char *old = read_text(path), *new = join(texts), *copy = strdup(new);
    if (!copy)
        abort();
    split(&old_lines, old);
    split(&new_lines, new);
    const bool same = print_difference(name, &old_lines, &new_lines) == 0;
    if (!same && update)
        write_text(path, copy);
    free(old);
    free(new);
    free(copy);
    return same;
}

static bool ends_in(const char *name, const char *suffix)
{
    const size_t len = strlen(name), suffix_len = strlen(suffix);
    return len > suffix_len && strcmp(name + len - suffix_len, suffix) == 0;
}

static int is_machine(const struct dirent *entry)
{
    return ends_in(entry->d_name, ".json");
}

static int is_plan(const struct dirent *entry)
{
    return ends_in(entry->d_name, ".txt");
}

// Plans of machines that are gone.
static bool check_left_over(bool update)
{
    struct dirent **entries;
    const int n = scandir(PLANS, &entries, is_plan, alphasort);
    bool same = true;
    for (int i = 0; i < n; i++) {
        char machine_file[4096], path[4096];
        snprintf(machine_file, sizeof machine_file, "%s/%.*s.json", MACHINES,
                 (int)strlen(entries[i]->d_name) - 4, entries[i]->d_name);
        snprintf(path, sizeof path, "%s/%s", PLANS, entries[i]->d_name);
        if (access(machine_file, F_OK) != 0) {
            printf("%s: there is no such machine\n", entries[i]->d_name);
            same = false;
            if (update)
                unlink(path);
        }
        free(entries[i]);
    }
    if (n >= 0)
        free(entries);
    return same;
}

int main(int argc, char **argv)
{
    const bool update = argc > 1 && strcmp(argv[1], "--update") == 0;
    struct dirent **entries;
    struct timespec begin, end;
    clock_gettime(CLOCK_MONOTONIC, &begin);
    const int n = scandir(MACHINES, &entries, is_machine, alphasort);
    if (n <= 0) {
        fprintf(stderr, "no machines in %s\n", MACHINES);
        return 1;
    }
    char **texts = calloc((size_t)n * N_MODELS, sizeof *texts);
    if (!texts)
        abort();
    for (int i = 0; i < n; i++)
        entries[i]->d_name[strlen(entries[i]->d_name) - 5] = 0;
    plan_all(texts, entries, n);
    bool same = check_left_over(update);
    for (int i = 0; i < n; i++) {
        same &= check_machine(entries[i]->d_name, texts + (size_t)i * N_MODELS, update);
        free(entries[i]);
    }
    for (int i = 0; i < n * N_MODELS; i++)
        free(texts[i]);
    free(texts);
    free(entries);
    clock_gettime(CLOCK_MONOTONIC, &end);
    printf("%d machines, %d plans in %.1f s\n", n, n * N_MODELS,
           (double)(end.tv_sec - begin.tv_sec) + (double)(end.tv_nsec - begin.tv_nsec) * 1e-9);
    if (!same && !update)
        printf("If the planner shall say so now: scripts/update-plans, and look at what git diff shows.\n");
    return same || update ? 0 : 1;
}
