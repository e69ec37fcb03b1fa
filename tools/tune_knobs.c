// The lists of values. They are short: a value costs three runs of a turn.
#include "tools/tune_knobs.h"

#include "tools/text.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

bool tune_settings_equal(const struct tune_settings *a, const struct tune_settings *b)
{
    return a->threads == b->threads && a->batch == b->batch && a->queue_depth == b->queue_depth &&
           a->prefetch_ranks == b->prefetch_ranks && a->ring_bytes == b->ring_bytes &&
           a->no_prefetch == b->no_prefetch && strcmp(a->policy, b->policy) == 0;
}

// ---- values
// --------------------------------------------------------------------------------------------------

struct values {
    struct tune_settings *list;
    size_t n;
    const struct tune_settings *base;
};

static void add(struct values *values, const struct tune_settings *settings)
{
    if (values->n == TUNE_MOST_VALUES || tune_settings_equal(settings, values->base))
        return;
    for (size_t i = 0; i < values->n; i++)
        if (tune_settings_equal(settings, &values->list[i]))
            return;
    values->list[values->n++] = *settings;
}

// Hardware threads of one core share its units, and a machine whose memory is the limit does as well with a
// core less, which is then free for reading.
static const char *list_threads(struct values *values, const struct tune_facts *facts)
{
    const uint32_t tried[] = {facts->processors > facts->threads ? facts->processors : 0, facts->threads - 1,
                              facts->threads / 2};
    for (size_t i = 0; i < sizeof tried / sizeof *tried; i++) {
        struct tune_settings settings = *values->base;
        settings.threads = tried[i];
        if (tried[i])
            add(values, &settings);
    }
    return "there is one processor";
}

static const char *list_prefetch(struct values *values, const struct tune_facts *facts)
{
    if (!facts->pool_bytes)
        return facts->n_experts ? "all experts stay in memory" : "the model has no experts";
    struct tune_settings settings = *values->base;
    settings.no_prefetch = !facts->no_prefetch;
    if (settings.no_prefetch)
        add(values, &settings);
    settings.no_prefetch = false;
    const uint32_t k = facts->n_experts_used, most = facts->n_experts;
    const uint32_t ranks[] = {k, 2 * k < most ? 2 * k : most, k / 2};
    for (size_t i = 0; i < sizeof ranks / sizeof *ranks; i++) {
        settings.prefetch_ranks = ranks[i];
        if (ranks[i] && (ranks[i] != k || facts->no_prefetch))
            add(values, &settings);
    }
    return "";
}

static const char *list_queue_depth(struct values *values, const struct tune_facts *facts)
{
    if (!facts->reads)
        return "nothing is read while tokens are computed";
    const uint32_t depths[] = {2 * facts->queue_depth, 4 * facts->queue_depth, facts->queue_depth / 2};
    for (size_t i = 0; i < sizeof depths / sizeof *depths; i++) {
        struct tune_settings settings = *values->base;
        settings.queue_depth = depths[i];
        add(values, &settings);
    }
    return "";
}

// More room to read ahead is taken from what stays in memory.
static const char *list_ring(struct values *values, const struct tune_facts *facts)
{
    if (!facts->streamed_bytes)
        return "no weights are streamed";
    for (uint64_t times = 2; times <= 4; times *= 2) {
        struct tune_settings settings = *values->base;
        settings.ring_bytes = times * facts->ring_bytes;
        if (settings.ring_bytes < facts->streamed_bytes)
            add(values, &settings);
    }
    return "all that is streamed has room already";
}

// Steps are told apart only by a prompt of whole ones: one of 128 tokens is read at once with 512 as with
// 1024, and a smaller step would seem to gain by the scratch that it frees.
static const char *list_batch(struct values *values, const struct tune_facts *facts)
{
    if (facts->prompt_tokens < facts->batch)
        return "the prompt is shorter than a step; a longer one (-p) measures it";
    const uint32_t batches[] = {2 * facts->batch, 4 * facts->batch, facts->batch / 2};
    for (size_t i = 0; i < sizeof batches / sizeof *batches; i++) {
        struct tune_settings settings = *values->base;
        settings.batch = batches[i];
        if (batches[i] && batches[i] <= facts->prompt_tokens)
            add(values, &settings);
    }
    return "";
}

// The first few of the table, which are in the order of their promise; the last are yardsticks.
static const char *list_policies(struct values *values, const struct tune_facts *facts)
{
    if (!facts->pool_bytes)
        return facts->n_experts ? "all experts stay in memory" : "the model has no experts";
    for (size_t i = 0; facts->policy_at(i, NULL); i++) {
        struct tune_settings settings = *values->base;
        const char *name = facts->policy_at(i, NULL);
        snprintf(settings.policy, sizeof settings.policy, "%s", name);
        if (strcmp(name, facts->policy) != 0)
            add(values, &settings);
    }
    return "there is one policy";
}

size_t tune_knob_values(struct tune_settings *out, const char **out_why, enum tune_knob knob,
                        const struct tune_settings *base, const struct tune_facts *facts)
{
    static const char *(*const lists[TUNE_KNOBS])(struct values *, const struct tune_facts *) = {
        [TUNE_THREADS] = list_threads, [TUNE_PREFETCH] = list_prefetch, [TUNE_QUEUE_DEPTH] = list_queue_depth,
        [TUNE_RING] = list_ring,       [TUNE_BATCH] = list_batch,       [TUNE_POLICY] = list_policies,
    };
    struct values values = {.list = out, .base = base};
    *out_why = "it is fixed by the command line";
    if (!facts->fixed[knob])
        *out_why = lists[knob](&values, facts);
    return values.n;
}

// ---- words
// ---------------------------------------------------------------------------------------------------

const char *tune_knob_name(enum tune_knob knob)
{
    static const char *const names[] = {
        [TUNE_THREADS] = "threads", [TUNE_PREFETCH] = "prefetch", [TUNE_QUEUE_DEPTH] = "queue depth",
        [TUNE_RING] = "ring",       [TUNE_BATCH] = "batch",       [TUNE_POLICY] = "policy",
        [TUNE_KNOBS] = "all of it",
    };
    return names[knob];
}

static const char *count_text(char out[TUNE_TEXT_SIZE], uint32_t value, uint32_t default_value)
{
    snprintf(out, TUNE_TEXT_SIZE, "%" PRIu32, value ? value : default_value);
    return out;
}

static const char *prefetch_text(char out[TUNE_TEXT_SIZE], const struct tune_settings *settings,
                                 const struct tune_facts *facts)
{
    const uint32_t ranks = settings->prefetch_ranks ? settings->prefetch_ranks : facts->n_experts_used;
    if (settings->no_prefetch || (facts->no_prefetch && !settings->prefetch_ranks))
        snprintf(out, TUNE_TEXT_SIZE, "off");
    else
        snprintf(out, TUNE_TEXT_SIZE, "%" PRIu32 " ranks", ranks);
    return out;
}

const char *tune_knob_text(char out[TUNE_TEXT_SIZE], enum tune_knob knob,
                           const struct tune_settings *settings, const struct tune_facts *facts)
{
    char bytes[TEXT_NUMBER_SIZE];
    switch (knob) {
    case TUNE_THREADS:
        return count_text(out, settings->threads, facts->threads);
    case TUNE_PREFETCH:
        return prefetch_text(out, settings, facts);
    case TUNE_QUEUE_DEPTH:
        return count_text(out, settings->queue_depth, facts->queue_depth);
    case TUNE_RING:
        snprintf(out, TUNE_TEXT_SIZE, "%s",
                 text_bytes(bytes, settings->ring_bytes ? settings->ring_bytes : facts->ring_bytes));
        return out;
    case TUNE_BATCH:
        return count_text(out, settings->batch, facts->batch);
    case TUNE_POLICY:
        snprintf(out, TUNE_TEXT_SIZE, "%s", settings->policy[0] ? settings->policy : facts->policy);
        return out;
    case TUNE_KNOBS:
        break;
    }
    out[0] = '\0';
    return out;
}

static void say(char *out, size_t capacity, enum tune_knob knob, const struct tune_settings *settings)
{
    const struct tune_facts none = {.policy = ""};
    char value[TUNE_TEXT_SIZE];
    const size_t used = strlen(out);
    snprintf(out + used, capacity - used, "%s%s %s", used ? ", " : "", tune_knob_name(knob),
             tune_knob_text(value, knob, settings, &none));
}

const char *tune_settings_text(char *out, size_t capacity, const struct tune_settings *settings)
{
    const bool differs[TUNE_KNOBS] = {
        [TUNE_THREADS] = settings->threads,
        [TUNE_PREFETCH] = settings->no_prefetch || settings->prefetch_ranks,
        [TUNE_QUEUE_DEPTH] = settings->queue_depth,
        [TUNE_RING] = settings->ring_bytes,
        [TUNE_BATCH] = settings->batch,
        [TUNE_POLICY] = settings->policy[0],
    };
    out[0] = '\0';
    for (int knob = 0; knob < TUNE_KNOBS; knob++)
        if (differs[knob])
            say(out, capacity, (enum tune_knob)knob, settings);
    if (!out[0])
        snprintf(out, capacity, "the defaults");
    return out;
}
