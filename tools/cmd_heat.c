// `lode heat`: which experts of a model earlier runs have chosen most.
#include "tools/cache_dir.h"
#include "tools/command.h"
#include "tools/json_out.h"
#include "tools/message.h"
#include "tools/model.h"
#include "tools/options.h"
#include "tools/text.h"

#include "placement/heat.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char command[] = "lode heat";

static const char usage[] =
    "Usage: lode heat [OPTION]... [FILE]\n"
    "\n"
    "Shows what earlier runs remember of a mixture of experts: for each layer the share of all choices\n"
    "that the hottest 1/8, 1/4 and 1/2 of its experts take, how many equally hot experts that amounts\n"
    "to (the exponential of the entropy), and the hottest with their choices a token. The default\n"
    "policy starts from it.\n"
    "\n"
    "  --layer L          only this layer, counted from 0\n"
    "  --top N            name the N hottest experts of a layer (5)\n"
    "  --json             one JSON object, with the choices a token of every expert\n"
    "  --clear            forget: remove what is kept of this model\n"
    "  -m, --model FILE   the same as FILE\n"
    "\n"
    "Exit: 0 done, also when nothing is kept yet; 1 failed, 2 usage.\n"
    "\n"
    "Examples:\n"
    "  lode heat gemma-4-26B-A4B-it-Q4_0.gguf --layer 3 --top 20\n"
    "  lode heat -m m.gguf --json | jq '.overall.effective_experts'\n";

enum { SHARES = 3, DEFAULT_TOP = 5 };
static const uint32_t share_divisors[SHARES] = {8, 4, 2};
static const char *const share_names[SHARES] = {"share_eighth", "share_quarter", "share_half"};

struct command_heat {
    struct model_options model;
    bool json, clear, layer_given, top_given;
    uint32_t layer, top;
    struct lode_file *file;
    struct lode_shape shape;
    uint64_t fingerprint;
    char path[MODEL_PATH_SIZE]; // of the heat file
    struct heat heat;           // means NULL: nothing is kept
    uint32_t *order;            // [n_units] scratch
};

// How choices are spread over some experts.
struct spread {
    uint32_t n;
    double total; // choices a token
    double shares[SHARES];
    double effective; // experts
};

static bool parse(struct command_heat *h, int argc, char **argv, int *exit_code)
{
    const struct option options[] = {
        OPTION_IS_TEXT("model", 'm', &h->model.path),
        {.name = "layer", .kind = OPTION_COUNT, .target = &h->layer, .max = 65535, .given = &h->layer_given},
        {.name = "top", .kind = OPTION_COUNT, .target = &h->top, .max = 65535, .given = &h->top_given},
        OPTION_IS_FLAG("json", 0, &h->json),
        OPTION_IS_FLAG("clear", 0, &h->clear),
    };
    const char *operand = NULL;
    struct option_parser parser = {.command = command,
                                   .usage = usage,
                                   .options = options,
                                   .n_options = sizeof options / sizeof *options,
                                   .operands = &operand,
                                   .max_operands = 1};
    if (!options_parse(&parser, argc, argv, exit_code))
        return false;
    if (operand && h->model.path) {
        *exit_code = message_usage(command, "-m and '%s' are two files; give one of them", operand);
        return false;
    }
    if (h->clear && (h->json || h->layer_given || h->top_given)) {
        *exit_code = message_usage(command, "--clear shows nothing; give it alone");
        return false;
    }
    if (operand)
        h->model.path = operand;
    return true;
}

// ---- figures
// -------------------------------------------------------------------------------------------------

static int hotter_first(const void *a, const void *b, void *means)
{
    const uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    const float hot_x = ((const float *)means)[x], hot_y = ((const float *)means)[y];
    return hot_x != hot_y ? (hot_x < hot_y) - (hot_x > hot_y) : (x > y) - (x < y);
}

// Writes the experts `first` … `first + n - 1` to `order`, the hottest first.
static struct spread measure(const struct command_heat *h, uint32_t first, uint32_t n)
{
    struct spread spread = {.n = n};
    for (uint32_t i = 0; i < n; i++) {
        h->order[i] = first + i;
        spread.total += (double)h->heat.mean[first + i];
    }
    qsort_r(h->order, n, sizeof *h->order, hotter_first, h->heat.mean);
    if (spread.total <= 0)
        return spread;
    double entropy = 0, sum = 0;
    for (uint32_t i = 0; i < n; i++) {
        const double share = (double)h->heat.mean[h->order[i]] / spread.total;
        sum += share;
        entropy -= share > 0 ? share * log(share) : 0;
        for (size_t s = 0; s < SHARES; s++)
            if (i < (n + share_divisors[s] - 1) / share_divisors[s])
                spread.shares[s] = sum;
    }
    spread.effective = exp(entropy);
    return spread;
}

static uint32_t layer_experts(const struct command_heat *h)
{
    return h->heat.n_units / h->heat.n_layers;
}

static uint32_t n_shown(const struct command_heat *h, uint32_t n)
{
    return h->top < n ? h->top : n;
}

// ---- text
// ----------------------------------------------------------------------------------------------------

static void print_spread(const struct spread *spread)
{
    for (size_t s = 0; s < SHARES; s++)
        printf(" %5.1f%%", 100 * spread->shares[s]);
    printf("  %7.1f of %-6u", spread->effective, spread->n);
}

static void print_layer(const struct command_heat *h, uint32_t layer)
{
    const uint32_t n = layer_experts(h), first = layer * n;
    const struct spread spread = measure(h, first, n);
    printf("%5u", layer);
    print_spread(&spread);
    for (uint32_t i = 0; i < n_shown(h, n); i++)
        printf("  %u: %.2f", h->order[i] - first, (double)h->heat.mean[h->order[i]]);
    printf("\n");
}

static void print_overall(const struct command_heat *h)
{
    const uint32_t n = h->heat.n_units;
    const struct spread spread = measure(h, 0, n);
    printf("%5s", "all");
    print_spread(&spread);
    for (uint32_t i = 0; i < n_shown(h, n); i++)
        printf("  %u/%u: %.2f", h->order[i] / layer_experts(h), h->order[i] % layer_experts(h),
               (double)h->heat.mean[h->order[i]]);
    printf("\n");
}

static void print_text(const struct command_heat *h)
{
    char path[sizeof h->path];
    printf("heat         %" PRIu64 " tokens, in %s\n", h->heat.n_tokens,
           text_printable(path, sizeof path, h->path));
    printf("\n%5s %6s %6s %6s  %17s  %s\n", "layer", "1/8", "1/4", "1/2", "effective experts",
           n_shown(h, h->heat.n_units) ? "hottest: choices a token" : "");
    for (uint32_t layer = 0; layer < h->heat.n_layers; layer++)
        if (!h->layer_given || layer == h->layer)
            print_layer(h, layer);
    if (!h->layer_given)
        print_overall(h);
}

// ---- JSON
// ----------------------------------------------------------------------------------------------------

// The shares and the entropy mean nothing where nothing was chosen.
static json_t *spread_json(const struct spread *spread)
{
    json_t *object = json_object();
    json_object_set_new(object, "experts", json_integer(spread->n));
    json_object_set_new(object, "choices_per_token", json_out_number(spread->total));
    for (size_t s = 0; s < SHARES; s++)
        json_object_set_new(object, share_names[s],
                            spread->total > 0 ? json_out_number(spread->shares[s]) : json_null());
    json_object_set_new(object, "effective_experts",
                        spread->total > 0 ? json_out_number(spread->effective) : json_null());
    return object;
}

static json_t *hottest_json(const struct command_heat *h, uint32_t n)
{
    json_t *array = json_array();
    for (uint32_t i = 0; i < n_shown(h, n); i++) {
        const uint32_t unit = h->order[i];
        json_array_append_new(array,
                              json_pack("{s:I,s:I,s:o}", "layer", (json_int_t)(unit / layer_experts(h)),
                                        "expert", (json_int_t)(unit % layer_experts(h)), "rate",
                                        json_out_number((double)h->heat.mean[unit])));
    }
    return array;
}

static json_t *layer_json(const struct command_heat *h, uint32_t layer)
{
    const uint32_t n = layer_experts(h), first = layer * n;
    const struct spread spread = measure(h, first, n);
    json_t *object = spread_json(&spread);
    json_object_set_new(object, "layer", json_integer(layer));
    json_object_set_new(object, "hottest", hottest_json(h, n));
    json_t *rates = json_array();
    for (uint32_t i = 0; i < n; i++)
        json_array_append_new(rates, json_out_number((double)h->heat.mean[first + i]));
    json_object_set_new(object, "rates", rates);
    return object;
}

static void print_json(const struct command_heat *h)
{
    json_t *object = json_object();
    json_object_set_new(object, "file", json_out_text(h->model.path, strlen(h->model.path)));
    json_object_set_new(object, "heat_file", json_out_text(h->path, strlen(h->path)));
    json_object_set_new(object, "tokens", json_integer((json_int_t)h->heat.n_tokens));
    json_t *layers = json_array();
    for (uint32_t layer = 0; layer < h->heat.n_layers; layer++)
        if (!h->layer_given || layer == h->layer)
            json_array_append_new(layers, layer_json(h, layer));
    json_object_set_new(object, "layers", layers);
    if (h->heat.mean && !h->layer_given) {
        const struct spread spread = measure(h, 0, h->heat.n_units);
        json_t *overall = spread_json(&spread);
        json_object_set_new(overall, "hottest", hottest_json(h, h->heat.n_units));
        json_object_set_new(object, "overall", overall);
    }
    json_out_print(stdout, object);
}

// ---- the command
// ---------------------------------------------------------------------------------------------

static int find_heat_file(struct command_heat *h)
{
    struct lode_error error = {0};
    int code = lode_file_open(&h->file, h->model.path, &error);
    if (!code)
        code = lode_file_shape(h->file, &h->shape, &error);
    if (!code && h->shape.n_experts)
        code = lode_file_fingerprint(h->file, &h->fingerprint, &error);
    if (code)
        return message_failed(command, &error);
    char folder[MODEL_PATH_SIZE];
    if (!cache_dir_heat(folder, sizeof folder))
        return EXIT_FAILED;
    if (heat_file_path(h->path, sizeof h->path, folder, h->fingerprint))
        return EXIT_OK;
    message_note(command, "the path of the cache folder is too long: %s", folder);
    return EXIT_FAILED;
}

static int clear(const struct command_heat *h)
{
    struct lode_error error = {0};
    bool removed;
    if (heat_remove(&removed, h->path, &error))
        return message_failed(command, &error);
    if (removed)
        printf("removed %s\n", h->path);
    else
        message_note(command, "nothing is kept of %s", h->model.path);
    return EXIT_OK;
}

static int read_heat(struct command_heat *h)
{
    struct lode_error error = {0};
    if (heat_inspect(&h->heat, h->path, &error))
        return message_failed(command, &error);
    if (!h->heat.mean)
        return EXIT_OK;
    if (h->heat.fingerprint != h->fingerprint || layer_experts(h) != h->shape.n_experts) {
        message_note(command, "%s is of another model; --clear removes it", h->path);
        return EXIT_FAILED;
    }
    h->order = malloc(h->heat.n_units * sizeof *h->order);
    if (h->order)
        return EXIT_OK;
    message_note(command, "no memory to sort %u experts", h->heat.n_units);
    return EXIT_FAILED;
}

static int show(struct command_heat *h)
{
    int code = read_heat(h);
    if (code)
        return code;
    const uint32_t n_layers = h->heat.mean ? h->heat.n_layers : h->shape.n_layers;
    if (h->layer_given && h->layer >= n_layers)
        return message_usage(command, "--layer %u: the layers of this model are 0 to %u", h->layer,
                             n_layers - 1);
    if (!h->heat.mean)
        message_note(command, "nothing is kept of %s yet; runs will write %s", h->model.path, h->path);
    if (h->json)
        print_json(h);
    else if (h->heat.mean)
        print_text(h);
    return EXIT_OK;
}

static int execute(struct command_heat *h)
{
    int code = model_find(&h->model, command);
    if (!code)
        code = find_heat_file(h);
    if (code)
        return code;
    if (!h->shape.n_experts) {
        message_note(command, "%s has no experts, so nothing is kept of it", h->model.path);
        return EXIT_OK;
    }
    return h->clear ? clear(h) : show(h);
}

int cmd_heat(int argc, char **argv)
{
    struct command_heat h = {.top = DEFAULT_TOP};
    int code;
    if (parse(&h, argc, argv, &code))
        code = execute(&h);
    lode_file_close(h.file);
    heat_close(&h.heat);
    free(h.order);
    return code;
}
