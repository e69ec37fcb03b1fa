// Draws a plan. Colour says where a unit lies, strength how often an expert is chosen. Colours are classes
// with a second set for dark surroundings; nothing else is in the style sheet, because several viewers know
// no more of it. Blue and green to violet for GPUs, orange and yellow for RAM, grey for the drive: these stay
// apart for eyes that do not tell red from green.
#include "tools/plan_svg.h"

#include "tools/new_file.h"
#include "tools/plan_layers.h"
#include "tools/plot.h"
#include "tools/text.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <string.h>

#define WIDTH 1200.0
#define LEFT 60.0 // of the bars; the layers' numbers stand before it
#define RIGHT 1176.0
#define DENSE_WIDTH 250.0 // beside experts
#define GAP 26.0          // between dense units and experts
#define ROWS_HEIGHT 600.0 // of all layers, about
#define LEAST_PITCH 9.0   // of a layer
#define MOST_PITCH 22.0
#define MOST_CELL 26.0 // of an expert
#define LABEL_PITCH 12.0
#define HEAT_LEVELS 8
#define HEAT_FAINTEST 0.24

static const char *const classes[PLAN_PLACES] = {"g0", "g1", "g2", "g3", "ra", "po", "nv"};
static const char *const light[PLAN_PLACES] = {"#2a78d6", "#14936a", "#7a4fd0", "#c9408f",
                                               "#e07b00", "#f2b632", "#7d828c"};
static const char *const dark[PLAN_PLACES] = {"#4b95ef", "#2bb98a", "#9a78ea", "#e066ab",
                                              "#ee8f1f", "#f5c451", "#8b909a"};

struct picture {
    FILE *out;
    const struct lode_plan *plan;
    const char *kv;
    struct plan_layers layers;
    double y; // what is drawn next begins here
};

// ---- text
// ----------------------------------------------------------------------------------------------------

enum text_style { PLAIN = 0, MUTED = 1, BOLD = 2, RIGHT_BOUND = 4 };

// `width` is the room there is.
static void draw_text(struct picture *p, double x, double y, double size, double width, unsigned style,
                      const char *format, ...) __attribute__((format(printf, 7, 8)));

static void draw_text(struct picture *p, double x, double y, double size, double width, unsigned style,
                      const char *format, ...)
{
    char text[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    fprintf(p->out, "<text class=\"%s\" x=\"%g\" y=\"%g\" font-size=\"%g\"%s%s>", style & MUTED ? "m" : "t",
            x, y, size, style & RIGHT_BOUND ? " text-anchor=\"end\"" : "",
            style & BOLD ? " font-weight=\"600\"" : "");
    plot_put_fitted(p->out, text, size, width);
    fputs("</text>\n", p->out);
}

static const char *rate_text(char text[TEXT_NUMBER_SIZE], double tok_s)
{
    snprintf(text, TEXT_NUMBER_SIZE, "%.*f", tok_s < 0.995 ? 2 : tok_s < 999.95 ? 1 : 0, tok_s);
    return text;
}

static const char *context_text(char text[TEXT_NUMBER_SIZE], uint32_t context)
{
    if (context && context % 1024 == 0)
        snprintf(text, TEXT_NUMBER_SIZE, "%" PRIu32 "K", context / 1024);
    else
        snprintf(text, TEXT_NUMBER_SIZE, "%" PRIu32, context);
    return text;
}

static const char *place_name(char text[PLAN_HOME_SIZE], unsigned place)
{
    static const char *const names[] = {"RAM", "RAM (pool)", "NVMe"};
    if (place < PLAN_PLACE_RAM)
        snprintf(text, PLAN_HOME_SIZE, "GPU%u", place);
    else
        snprintf(text, PLAN_HOME_SIZE, "%s", names[place - PLAN_PLACE_RAM]);
    return text;
}

// ---- head
// ----------------------------------------------------------------------------------------------------

static void draw_style(struct picture *p)
{
    fputs("<style>\n.bg{fill:#fcfcfb}.t{fill:#16181d}.m{fill:#5a5f69}.tr{fill:#e3e4e6}.us{fill:#a3a7ae}\n",
          p->out);
    for (unsigned i = 0; i < PLAN_PLACES; i++)
        fprintf(p->out, ".%s{fill:%s}", classes[i], light[i]);
    fputs("\n@media (prefers-color-scheme:dark){\n"
          ".bg{fill:#15171b}.t{fill:#eceef1}.m{fill:#a4a9b3}.tr{fill:#2d3036}.us{fill:#6a6f79}\n",
          p->out);
    for (unsigned i = 0; i < PLAN_PLACES; i++)
        fprintf(p->out, ".%s{fill:%s}", classes[i], dark[i]);
    fputs("\n}\n</style>\n", p->out);
}

// In steps, so that neighbours can share a group. The root keeps the many that are chosen seldom apart: of
// 128 experts the hottest is chosen some ten times as often as the mean.
static double heat_strength(const struct plan_layers *layers, float heat)
{
    if (layers->most_heat <= 0)
        return 1;
    const double share = cbrt(heat > 0 ? (double)heat / layers->most_heat : 0);
    const double level = floor(share * (HEAT_LEVELS - 1) + 0.5) / (HEAT_LEVELS - 1);
    return HEAT_FAINTEST + (1 - HEAT_FAINTEST) * level;
}

static void draw_speed(struct picture *p)
{
    const struct lode_plan *plan = p->plan;
    char rate[TEXT_NUMBER_SIZE], from[TEXT_NUMBER_SIZE], to[TEXT_NUMBER_SIZE], context[TEXT_NUMBER_SIZE];
    if (!plan->n_expected)
        return;
    const struct lode_plan_expected *e = &plan->expected[0];
    draw_text(p, RIGHT, 52, 32, 330, RIGHT_BOUND | BOLD, "%s tok/s", rate_text(rate, e->decode_tok_s));
    draw_text(p, RIGHT, 74, 13, 330, MUTED | RIGHT_BOUND, "decode at context %" PRIu32 ", %s to %s",
              e->context, rate_text(from, e->decode_low), rate_text(to, e->decode_high));
    draw_text(p, RIGHT, 93, 13, 330, MUTED | RIGHT_BOUND, "limited by: %s", e->decode.limiter);
    char line[256];
    int used = 0;
    for (uint32_t i = 1; i < plan->n_expected; i++)
        used += snprintf(line + used, sizeof line - (size_t)used, "decode after %s: %s tok/s, ",
                         context_text(context, plan->expected[i].context),
                         rate_text(rate, plan->expected[i].decode_tok_s));
    snprintf(line + used, sizeof line - (size_t)used, "prefill: %s tok/s", rate_text(rate, e->prefill_tok_s));
    draw_text(p, 24, 93, 13, 800, MUTED, "%s", line);
}

static void draw_head(struct picture *p)
{
    const struct lode_plan *plan = p->plan;
    char bytes[TEXT_NUMBER_SIZE];
    draw_text(p, 24, 44, 22, 800, BOLD, "%s, %s, %s", plan->shape.name, plan->shape.type,
              text_bytes(bytes, plan->shape.weight_bytes));
    draw_text(p, 24, 70, 14, 800, PLAIN, "on %s (%s)", plan->machine,
              plan->measured ? "measured" : "not measured");
    draw_speed(p);
    p->y = 122;
}

// Of a layer, from its top to the next one's.
static double row_pitch(const struct plan_layers *layers)
{
    const double pitch = ROWS_HEIGHT / (layers->n_layers ? layers->n_layers : 1);
    return floor(pitch < LEAST_PITCH ? LEAST_PITCH : pitch > MOST_PITCH ? MOST_PITCH : pitch);
}

// ---- units
// ---------------------------------------------------------------------------------------------------

static void draw_tip(struct picture *p, const struct lode_plan_unit *unit, unsigned place)
{
    char bytes[TEXT_NUMBER_SIZE], name[PLAN_HOME_SIZE], text[256];
    snprintf(text, sizeof text, "%s, %s: %s", unit->kind, text_bytes(bytes, unit->bytes),
             place_name(name, place));
    fputs("<title>", p->out);
    plot_put(p->out, text);
    fputs("</title>", p->out);
}

// Units side by side, as wide as their bytes, each at least two pixels.
static void draw_bar(struct picture *p, uint32_t from, uint32_t to, double y, double height,
                     double pixels_per_byte)
{
    double x = LEFT;
    for (uint32_t i = from; i < to; i++) {
        const uint32_t u = p->layers.order[i];
        const struct lode_plan_unit *unit = &p->plan->units[u];
        const double width = 2 + (double)unit->bytes * pixels_per_byte;
        fprintf(p->out, "<rect class=\"%s\" x=\"%.2f\" y=\"%g\" width=\"%.2f\" height=\"%g\">",
                classes[p->layers.place[u]], x, y, width, height);
        draw_tip(p, unit, p->layers.place[u]);
        fputs("</rect>\n", p->out);
        x += width + 1;
    }
}

// Above the bar of a layer, what its units are, as far as there is room.
static void draw_kinds(struct picture *p, uint32_t from, uint32_t to, double y, double pixels_per_byte)
{
    double x = LEFT;
    for (uint32_t i = from; i < to; i++) {
        const struct lode_plan_unit *unit = &p->plan->units[p->layers.order[i]];
        const double width = 2 + (double)unit->bytes * pixels_per_byte;
        if ((double)strlen(unit->kind) * 11 * PLOT_LETTER <= width)
            draw_text(p, x, y, 11, width, MUTED, "%s", unit->kind);
        x += width + 1;
    }
}

static void draw_outside(struct picture *p)
{
    const uint32_t n_units = p->layers.n_layers ? p->layers.begin[0] : p->plan->n_units;
    uint64_t sum = 0;
    char line[512] = "outside of the layers: ";
    size_t used = strlen(line);
    if (!n_units)
        return;
    for (uint32_t i = 0; i < n_units; i++) {
        const struct lode_plan_unit *unit = &p->plan->units[p->layers.order[i]];
        char bytes[TEXT_NUMBER_SIZE];
        sum += unit->bytes;
        if (used < sizeof line)
            used += (size_t)snprintf(line + used, sizeof line - used, "%s%s %s", i ? ", " : "", unit->kind,
                                     text_bytes(bytes, unit->bytes));
    }
    draw_text(p, LEFT, p->y, 12, RIGHT - LEFT, MUTED, "%s", line);
    draw_bar(p, 0, n_units, p->y + 8, 16, (RIGHT - LEFT - 3.0 * n_units) / (double)(sum ? sum : 1));
    p->y += 50;
}

// The experts of a layer. Neighbours of one place and strength share a group's attributes.
static void draw_experts(struct picture *p, uint32_t from, uint32_t to, double y, double height, double x,
                         double pitch)
{
    const double gap = pitch >= 4 ? 1 : pitch / 4;
    const struct plan_layers *layers = &p->layers;
    for (uint32_t i = from; i < to;) {
        const unsigned place = layers->place[layers->order[i]];
        const double strength = heat_strength(layers, p->plan->units[layers->order[i]].heat);
        fprintf(p->out, "<g class=\"%s\" fill-opacity=\"%.2f\">", classes[place], strength);
        for (; i < to && layers->place[layers->order[i]] == place &&
               heat_strength(layers, p->plan->units[layers->order[i]].heat) == strength;
             i++)
            fprintf(p->out, "<rect x=\"%.2f\" y=\"%g\" width=\"%.2f\" height=\"%g\"/>",
                    x + pitch * (double)(i - from), y, pitch - gap, height);
        fputs("</g>\n", p->out);
    }
}

static void draw_heat_scale(struct picture *p, double y)
{
    if (p->layers.most_heat <= 0) {
        draw_text(p, RIGHT, y, 12, 330, MUTED | RIGHT_BOUND, "how often each is chosen is not known");
        return;
    }
    draw_text(p, RIGHT - 128, y, 12, 150, MUTED | RIGHT_BOUND, "seldom chosen");
    for (int i = 0; i < HEAT_LEVELS; i++)
        fprintf(p->out,
                "<rect class=\"t\" fill-opacity=\"%.2f\" x=\"%g\" y=\"%g\" width=\"9\" height=\"10\"/>\n",
                HEAT_FAINTEST + (1 - HEAT_FAINTEST) * i / (HEAT_LEVELS - 1), RIGHT - 121 + 10.0 * i, y - 9);
    draw_text(p, RIGHT, y, 12, 60, MUTED | RIGHT_BOUND, "often");
}

static void draw_layers(struct picture *p)
{
    const struct plan_layers *layers = &p->layers;
    if (!layers->n_layers)
        return;
    const bool has_experts = layers->most_experts > 0;
    const double pitch = row_pitch(layers);
    const double height = pitch - (pitch >= 12 ? 3 : 2);
    const double dense_width = has_experts ? DENSE_WIDTH : RIGHT - LEFT;
    const double pixels_per_byte = (dense_width - 3.0 * layers->most_dense) /
                                   (double)(layers->most_dense_bytes ? layers->most_dense_bytes : 1);
    const double experts_x = LEFT + DENSE_WIDTH + GAP;
    double cell = has_experts ? (RIGHT - experts_x) / layers->most_experts : 0;
    cell = cell > MOST_CELL ? MOST_CELL : cell;

    draw_text(p, LEFT - 8, p->y, 12, 52, MUTED | RIGHT_BOUND, "layer");
    draw_text(p, LEFT, p->y, 12, dense_width, MUTED, "dense units, as wide as their bytes");
    if (has_experts) {
        draw_text(p, experts_x, p->y, 12, 500, MUTED,
                  layers->most_heat > 0 ? "%" PRIu32 " experts a layer, the hottest first"
                                        : "%" PRIu32 " experts a layer, by place",
                  layers->most_experts);
        draw_heat_scale(p, p->y);
    }
    // The widest layer names the kinds best.
    uint32_t widest = 0, most = 0;
    for (uint32_t l = 0; l < layers->n_layers; l++)
        if (layers->experts[l] - layers->begin[l] > most) {
            widest = l;
            most = layers->experts[l] - layers->begin[l];
        }
    draw_kinds(p, layers->begin[widest], layers->experts[widest], p->y + 16, pixels_per_byte);
    p->y += 22;

    const uint32_t step = pitch >= LABEL_PITCH ? 1 : 5;
    for (uint32_t l = 0; l < layers->n_layers; l++, p->y += pitch) {
        fprintf(p->out, "<g><title>layer %" PRIu32 "</title>\n", l);
        if (l % step == 0)
            draw_text(p, LEFT - 8, p->y + height / 2 + 4, 11, 44, MUTED | RIGHT_BOUND, "%" PRIu32, l);
        draw_bar(p, layers->begin[l], layers->experts[l], p->y, height, pixels_per_byte);
        draw_experts(p, layers->experts[l], layers->begin[l + 1], p->y, height, experts_x, cell);
        fputs("</g>\n", p->out);
    }
    p->y += 14;
}

// ---- legend
// --------------------------------------------------------------------------------------------------

#define BAR_X 176.0
#define BAR_WIDTH 120.0

struct fill {
    const char *class;
    uint64_t bytes;
};

// How full a memory is: its parts one behind the other on a track that is the ceiling.
static void draw_gauge(struct picture *p, const struct fill *fills, size_t n_fills, uint64_t ceiling_bytes)
{
    double x = BAR_X;
    fprintf(p->out, "<rect class=\"tr\" x=\"%g\" y=\"%g\" width=\"%g\" height=\"10\"/>\n", BAR_X, p->y,
            BAR_WIDTH);
    for (size_t i = 0; i < n_fills && ceiling_bytes; i++) {
        double width = BAR_WIDTH * (double)fills[i].bytes / (double)ceiling_bytes;
        width = x + width > BAR_X + BAR_WIDTH ? BAR_X + BAR_WIDTH - x : width;
        if (width > 0)
            fprintf(p->out, "<rect class=\"%s\" x=\"%.2f\" y=\"%g\" width=\"%.2f\" height=\"10\"/>\n",
                    fills[i].class, x, p->y, width);
        x += width;
    }
}

static void draw_key(struct picture *p, unsigned place)
{
    char name[PLAN_HOME_SIZE];
    fprintf(p->out, "<rect class=\"%s\" x=\"%g\" y=\"%g\" width=\"12\" height=\"12\"/>\n", classes[place],
            LEFT, p->y - 1);
    draw_text(p, LEFT + 20, p->y + 9, 13, 92, BOLD, "%s", place_name(name, place));
}

static void draw_note(struct picture *p, double x, const char *text)
{
    draw_text(p, x, p->y + 9, 12, RIGHT - x, PLAIN, "%s", text);
    p->y += 22;
}

// "KV f16 379.8 MiB"; nothing of 0 bytes.
static void add_part(char *line, size_t capacity, const char *name, uint64_t bytes)
{
    char text[TEXT_NUMBER_SIZE];
    const size_t used = strlen(line);
    if (bytes)
        snprintf(line + used, capacity - used, "%s %s %s", strchr(line, ':') ? "," : ":", name,
                 text_bytes(text, bytes));
}

static void draw_gpu(struct picture *p, uint32_t g)
{
    const struct lode_plan_gpu *gpu = &p->plan->gpus[g];
    char kv[32], line[400], used_text[TEXT_NUMBER_SIZE], all_text[TEXT_NUMBER_SIZE];
    uint64_t weight_bytes = 0;
    for (uint32_t i = 0; i < p->plan->n_groups; i++)
        weight_bytes += p->plan->groups[i].gpu_bytes[g];
    const uint64_t used_bytes = weight_bytes + gpu->kv_bytes + gpu->scratch_bytes;
    const struct fill fills[] = {{classes[PLAN_PLACE_GPU + g], weight_bytes},
                                 {"us", gpu->kv_bytes + gpu->scratch_bytes}};
    snprintf(kv, sizeof kv, "KV %s", p->kv);
    snprintf(line, sizeof line, "%s of %s", text_bytes(used_text, used_bytes),
             text_bytes(all_text, gpu->ceiling_bytes));
    add_part(line, sizeof line, "weights", weight_bytes);
    add_part(line, sizeof line, kv, gpu->kv_bytes);
    add_part(line, sizeof line, "scratch", gpu->scratch_bytes);
    const size_t used = strlen(line);
    snprintf(line + used, sizeof line - used, " (%s)", gpu->name);
    draw_key(p, PLAN_PLACE_GPU + g);
    draw_gauge(p, fills, 2, gpu->ceiling_bytes);
    draw_note(p, BAR_X + BAR_WIDTH + 12, line);
}

static void draw_ram(struct picture *p)
{
    const struct lode_plan *plan = p->plan;
    char kv[32], line[400], used_text[TEXT_NUMBER_SIZE], all_text[TEXT_NUMBER_SIZE];
    uint64_t ram_bytes = 0, pool_bytes = 0;
    for (uint32_t i = 0; i < plan->n_groups; i++)
        ram_bytes += plan->groups[i].ram_bytes;
    for (uint32_t u = 0; u < plan->n_units; u++)
        if (p->layers.place[u] == PLAN_PLACE_POOL)
            pool_bytes += plan->units[u].bytes;
    pool_bytes = pool_bytes < ram_bytes ? pool_bytes : ram_bytes;
    const uint64_t rest_bytes =
        plan->kv_bytes + plan->scratch_bytes + plan->buffer_bytes + plan->program_bytes;
    const struct fill fills[] = {{classes[PLAN_PLACE_RAM], ram_bytes - pool_bytes},
                                 {classes[PLAN_PLACE_POOL], pool_bytes},
                                 {"us", rest_bytes}};
    snprintf(kv, sizeof kv, "KV %s", p->kv);
    snprintf(line, sizeof line, "%s of %s", text_bytes(used_text, ram_bytes + rest_bytes),
             text_bytes(all_text, plan->ceiling_bytes));
    add_part(line, sizeof line, "weights", ram_bytes - pool_bytes);
    add_part(line, sizeof line, "pool", pool_bytes);
    add_part(line, sizeof line, kv, plan->kv_bytes);
    add_part(line, sizeof line, "scratch", plan->scratch_bytes);
    add_part(line, sizeof line, "buffers", plan->buffer_bytes);
    add_part(line, sizeof line, "program", plan->program_bytes);
    draw_key(p, PLAN_PLACE_RAM);
    draw_gauge(p, fills, 3, plan->ceiling_bytes);
    draw_note(p, BAR_X + BAR_WIDTH + 12, line);
    if (!p->layers.n_in_pool)
        return;
    snprintf(line, sizeof line,
             "room for %" PRIu32 " of the %" PRIu32 " experts that share it; drawn are the hottest",
             p->layers.n_in_pool, p->layers.n_pooled);
    draw_key(p, PLAN_PLACE_POOL);
    draw_note(p, BAR_X, line);
}

static uint64_t nvme_bytes(const struct lode_plan *plan)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < plan->n_groups; i++)
        bytes += plan->groups[i].nvme_bytes;
    return bytes;
}

static void draw_nvme(struct picture *p)
{
    char text[TEXT_NUMBER_SIZE], token[TEXT_NUMBER_SIZE], line[400];
    const uint64_t bytes = nvme_bytes(p->plan);
    if (!bytes)
        return;
    snprintf(line, sizeof line, "%s, read while the model runs", text_bytes(text, bytes));
    if (p->plan->n_expected && p->plan->expected[0].read_bytes_per_token >= 1) {
        const size_t used = strlen(line);
        snprintf(line + used, sizeof line - used, ": %s a token",
                 text_bytes(token, (uint64_t)p->plan->expected[0].read_bytes_per_token));
    }
    draw_key(p, PLAN_PLACE_NVME);
    draw_note(p, BAR_X, line);
}

static double legend_height(const struct plan_layers *layers)
{
    uint32_t n_rows = 1 + (layers->n_in_pool > 0) + (nvme_bytes(layers->plan) > 0);
    for (uint32_t g = 0; g < layers->plan->n_gpus; g++)
        n_rows += plan_uses_gpu(layers->plan, g);
    return 22.0 * n_rows + 10;
}

// ---- the whole
// -----------------------------------------------------------------------------------------------

// The height is needed in front of all: what the parts above take.
static double picture_height(const struct plan_layers *layers)
{
    const double rows = layers->n_layers ? 22 + row_pitch(layers) * layers->n_layers + 14 : 0;
    const bool outside = layers->n_layers ? layers->begin[0] > 0 : layers->plan->n_units > 0;
    return 122 + (outside ? 50 : 0) + rows + legend_height(layers);
}

int plan_svg_print(FILE *out, const struct lode_plan *plan, const char *kv, struct lode_error *error)
{
    struct picture p = {.out = out, .plan = plan, .kv = kv};
    if (!plan_layers_open(&p.layers, plan)) {
        plan_layers_close(&p.layers);
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for a picture of %" PRIu32 " units",
                         plan->n_units);
    }
    const double height = picture_height(&p.layers);
    fprintf(out,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%g\" height=\"%g\" viewBox=\"0 0 %g %g\" "
            "role=\"img\" font-family=\"system-ui, 'Segoe UI', 'DejaVu Sans', sans-serif\">\n<title>",
            WIDTH, height, WIDTH, height);
    plot_put(out, plan->shape.name);
    fputs(" on ", out);
    plot_put(out, plan->machine);
    fputs("</title>\n", out);
    draw_style(&p);
    fprintf(out, "<rect class=\"bg\" width=\"%g\" height=\"%g\"/>\n", WIDTH, height);
    draw_head(&p);
    draw_outside(&p);
    draw_layers(&p);
    for (uint32_t g = 0; g < plan->n_gpus; g++)
        if (plan_uses_gpu(plan, g))
            draw_gpu(&p, g);
    draw_ram(&p);
    draw_nvme(&p);
    fputs("</svg>\n", out);
    plan_layers_close(&p.layers);
    return 0;
}

int plan_svg_write(const char *path, const struct lode_plan *plan, const char *kv, struct lode_error *error)
{
    struct new_file file;
    int rc = new_file_open(&file, path, error);
    if (rc)
        return rc;
    rc = plan_svg_print(file.stream, plan, kv, error);
    if (rc) {
        new_file_discard(&file);
        return rc;
    }
    return new_file_close(&file, error);
}
