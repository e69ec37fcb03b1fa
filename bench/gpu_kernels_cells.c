// The cells of the laboratory for GPUs: products by type, shape and rows; experts of one token and of a step;
// attention by context; small operations.
#include "bench/gpu_kernels.h"

#include <stdio.h>
#include <string.h>

static size_t aligned(size_t bytes)
{
    return (bytes + LODE_DEVICE_ALIGN - 1) / LODE_DEVICE_ALIGN * LODE_DEVICE_ALIGN;
}

// ---- products

struct product {
    struct gpu_lab *lab;
    struct lode_matrix weight, gate; // of the first copy; gate.rows is 0 for a single product
    size_t copy_bytes;
    uint32_t n_copies, copy, n_rows;
};

static struct lode_matrix at_copy(const struct lode_matrix *matrix, uint32_t copy, size_t copy_bytes)
{
    struct lode_matrix at = *matrix;
    at.data = (const uint8_t *)matrix->data + copy * copy_bytes;
    return at;
}

static void run_product(void *user)
{
    struct product *p = user;
    struct lode_device *device = p->lab->device;
    const struct lode_matrix weight = at_copy(&p->weight, p->copy, p->copy_bytes),
                             gate = at_copy(&p->gate, p->copy, p->copy_bytes);
    const struct lode_rows x = {p->lab->probe.x, p->n_rows, weight.cols, weight.cols};
    const struct lode_rows out = {p->lab->probe.out, p->n_rows, weight.rows, weight.rows};
    if (gate.rows)
        device->ops->matmul_geglu(device, out, &gate, &weight, x);
    else
        device->ops->matmul(device, &out, &weight, 1, x);
    p->copy = (p->copy + 1) % p->n_copies;
}

// False where the type has no such row, or the arena is too small.
static bool put_matrix(struct lode_matrix *out, struct probe *probe, size_t *at, enum lode_type type,
                       uint32_t rows, uint32_t cols)
{
    uint64_t row_bytes;
    if (!lode_type_row_bytes(&row_bytes, type, cols) || *at + rows * row_bytes > probe->arena_bytes)
        return false;
    *out = (struct lode_matrix){
        .data = probe->arena + *at, .type = type, .rows = rows, .cols = cols, .row_bytes = row_bytes};
    probe_put_blocks(probe, *at, type, rows * row_bytes);
    probe->device->ops->arrange(probe->device, out);
    *at += aligned(rows * row_bytes);
    return true;
}

struct product_shape {
    const char *name;
    uint32_t rows, cols;
};

static void measure_product(struct gpu_lab *lab, const char *op, const struct product_shape *shape,
                            enum lode_type type, const uint32_t *counts, uint32_t n_counts)
{
    const bool is_gated = strcmp(op, "matmul_geglu") == 0;
    struct product p = {.lab = lab};
    bool is_made = false;
    for (uint32_t i = 0; i < n_counts; i++) {
        char text[48];
        snprintf(text, sizeof text, "%s %ux%u rows=%u", shape->name, shape->rows, shape->cols, counts[i]);
        if (!gpu_lab_wants(lab, op, lode_type_name(type), text))
            continue;
        if (!is_made) {
            size_t bytes = 0;
            if (!put_matrix(&p.weight, &lab->probe, &bytes, type, shape->rows, shape->cols) ||
                (is_gated && !put_matrix(&p.gate, &lab->probe, &bytes, type, shape->rows, shape->cols)))
                return;
            p.copy_bytes = bytes;
            p.n_copies = probe_repeat_arena(&lab->probe, bytes);
            is_made = true;
        }
        p.n_rows = counts[i];
        const double n = is_gated ? 2 : 1;
        const struct gpu_cost cost = {n * (double)p.weight.row_bytes * p.weight.rows,
                                      n * 2 * (double)p.weight.rows * p.weight.cols * p.n_rows};
        gpu_lab_measure(lab, op, lode_type_name(type), text, cost, run_product, &p);
    }
}

void gpu_lab_products(struct gpu_lab *lab)
{
    static const struct product_shape shapes[] = {{"26b-dense-up", 2112, 2816},
                                                  {"26b-q", 4096, 2816},
                                                  {"e2b-down", 1536, 6144},
                                                  {"31b-dense-down", 5376, 21504}};
    static const struct product_shape gated[] = {{"26b-dense", 2112, 2816}, {"31b", 21504, 5376}};
    static const struct product_shape head = {"26b-head", 262144, 2816};
    static const uint32_t counts[] = {1, 2, 4, 8, 32, 128, 512}, gated_counts[] = {1, 512}, one[] = {1};
    enum lode_type types[LODE_TYPE_END];
    const uint32_t n_types = probe_types(types, PROBE_THOROUGH);
    for (uint32_t t = 0; t < n_types; t++) {
        for (uint32_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
            measure_product(lab, "matmul", &shapes[s], types[t], counts, sizeof counts / sizeof *counts);
        for (uint32_t s = 0; s < sizeof gated / sizeof *gated; s++)
            measure_product(lab, "matmul_geglu", &gated[s], types[t], gated_counts, 2);
        if (types[t] == LODE_Q4_0 || types[t] == LODE_Q6_K || types[t] == LODE_Q8_0)
            measure_product(lab, "matmul", &head, types[t], one, 1);
    }
}

// ---- experts: 8 of 128, as 26B-A4B has them

#define HIDDEN 2816
#define USED 8

struct experts {
    struct gpu_lab *lab;
    struct lode_expert_job kind; // of the first expert
    size_t expert_bytes;
    uint32_t n_experts; // that have weights of their own
    uint32_t first, n_jobs, n_rows;
    bool routed;
    int32_t tokens[GPU_EXPERTS][GPU_CHOICES / GPU_EXPERTS], slots[GPU_EXPERTS][GPU_CHOICES / GPU_EXPERTS];
    struct lode_expert_job jobs[GPU_EXPERTS];
};

static void run_experts(void *user)
{
    struct experts *e = user;
    struct lode_device *device = e->lab->device;
    const struct lode_rows x = {e->lab->probe.x, e->n_rows, HIDDEN, HIDDEN};
    const struct lode_rows out = {e->lab->probe.out, e->n_rows * USED, HIDDEN, HIDDEN};
    if (e->routed) {
        device->ops->experts_routed(device, out, x, &e->kind, e->lab->entries + e->first, e->lab->ids, USED);
    } else {
        for (uint32_t j = 0; j < e->n_jobs; j++) {
            const uint32_t expert = (e->first + j) % e->n_experts;
            e->jobs[j].gate = at_copy(&e->kind.gate, expert, e->expert_bytes);
            e->jobs[j].up = at_copy(&e->kind.up, expert, e->expert_bytes);
            e->jobs[j].down = at_copy(&e->kind.down, expert, e->expert_bytes);
        }
        device->ops->experts(device, out, x, e->jobs, e->n_jobs);
    }
    e->first = e->first + 2 * USED <= e->n_experts ? e->first + USED : 0;
}

static bool make_experts(struct experts *out, struct gpu_lab *lab, enum lode_type type)
{
    const uint32_t width = 704 % lode_type_find(type)->block_elems == 0 ? 704 : 768;
    *out = (struct experts){.lab = lab};
    if (!put_matrix(&out->kind.gate, &lab->probe, &out->expert_bytes, type, width, HIDDEN) ||
        !put_matrix(&out->kind.up, &lab->probe, &out->expert_bytes, type, width, HIDDEN) ||
        !put_matrix(&out->kind.down, &lab->probe, &out->expert_bytes, type, HIDDEN, width))
        return false;
    const uint32_t n = probe_repeat_arena(&lab->probe, out->expert_bytes);
    out->n_experts = n < GPU_EXPERTS ? n : GPU_EXPERTS;
    struct lode_expert_entry entries[GPU_EXPERTS] = {{NULL, NULL, NULL}};
    for (uint32_t e = 0; e < out->n_experts; e++)
        entries[e] = (struct lode_expert_entry){at_copy(&out->kind.gate, e, out->expert_bytes).data,
                                                at_copy(&out->kind.up, e, out->expert_bytes).data,
                                                at_copy(&out->kind.down, e, out->expert_bytes).data};
    if (!lab->probe.fault)
        lab->probe.fault = lab->device->ops->upload(lab->device, lab->entries, entries, sizeof entries,
                                                    &lab->probe.fault_error);
    return out->n_experts >= USED;
}

// Each token's choices are eight experts in a row, and every expert has as many of them.
static void assign(struct experts *e, uint32_t n_rows)
{
    uint32_t counts[GPU_EXPERTS] = {0};
    e->n_rows = n_rows;
    e->n_jobs = n_rows * USED < GPU_EXPERTS ? n_rows * USED : GPU_EXPERTS;
    for (uint32_t i = 0; i < n_rows * USED; i++) {
        const uint32_t job = i % e->n_jobs;
        e->tokens[job][counts[job]] = (int32_t)(i / USED);
        e->slots[job][counts[job]++] = (int32_t)i;
    }
    for (uint32_t j = 0; j < e->n_jobs; j++)
        e->jobs[j] = (struct lode_expert_job){.tokens = e->tokens[j], .slots = e->slots[j], .n = counts[j]};
}

void gpu_lab_experts(struct gpu_lab *lab)
{
    static const struct {
        const char *op;
        uint32_t rows;
        bool routed;
    } cells[] = {
        {"experts_routed", 1, true}, {"experts", 1, false}, {"experts", 8, false}, {"experts", 512, false}};
    static struct experts e; // too large for a small stack
    enum lode_type types[LODE_TYPE_END];
    const uint32_t n_types = probe_types(types, PROBE_THOROUGH);
    for (uint32_t t = 0; t < n_types; t++) {
        bool is_made = false;
        for (uint32_t c = 0; c < sizeof cells / sizeof *cells; c++) {
            char shape[48];
            snprintf(shape, sizeof shape, "26b 8-of-128 rows=%u", cells[c].rows);
            if (!gpu_lab_wants(lab, cells[c].op, lode_type_name(types[t]), shape))
                continue;
            if (!is_made && !make_experts(&e, lab, types[t]))
                break;
            is_made = true;
            assign(&e, cells[c].rows);
            e.routed = cells[c].routed;
            e.first = 0;
            const double weights =
                2 * (double)e.kind.gate.rows * e.kind.gate.cols + (double)e.kind.down.rows * e.kind.down.cols;
            const double bytes = 2 * (double)e.kind.gate.rows * (double)e.kind.gate.row_bytes +
                                 (double)e.kind.down.rows * (double)e.kind.down.row_bytes;
            const struct gpu_cost cost = {bytes * e.n_jobs, 2 * weights * cells[c].rows * USED};
            gpu_lab_measure(lab, cells[c].op, lode_type_name(types[t]), shape, cost, run_experts, &e);
        }
    }
}

// ---- attention

struct attention {
    struct gpu_lab *lab;
    struct lode_kv kv;
    size_t half_bytes; // of K, and of V
    uint32_t n_copies, copy, n_heads, rows, first, window;
};

static void run_attention(void *user)
{
    struct attention *a = user;
    struct lode_device *device = a->lab->device;
    const uint32_t cols = a->n_heads * a->kv.head_size;
    const struct lode_rows q = {a->lab->probe.x, a->rows, cols, cols},
                           out = {a->lab->probe.out, a->rows, cols, cols};
    struct lode_kv kv = a->kv;
    kv.k = a->lab->probe.arena + 2 * a->copy * a->half_bytes;
    kv.v = (uint8_t *)kv.k + a->half_bytes;
    device->ops->attention(device, out, q, a->n_heads, &kv, a->first, a->window);
    a->copy = (a->copy + 1) % a->n_copies;
}

static const struct layer_shape {
    const char *name;
    uint32_t n_heads, n_kv_heads, head_size, window;
} layers[] = {{"e2b-local", 8, 1, 256, 512},    {"e2b-global", 8, 1, 512, 0},
              {"26b-local", 16, 8, 256, 1024},  {"26b-global", 16, 2, 512, 0},
              {"31b-local", 32, 16, 256, 1024}, {"31b-global", 32, 4, 512, 0}};

static void measure_attention(struct gpu_lab *lab, const struct layer_shape *layer,
                              enum lode_kv_format format, uint32_t rows, uint32_t context)
{
    static const char *const names[] = {
        [LODE_CACHE_F16] = "F16", [LODE_CACHE_Q8_0] = "Q8_0", [LODE_CACHE_F32] = "F32"};
    const char *op = rows == 1 ? "attention-decode" : "attention-prefill";
    char shape[48];
    snprintf(shape, sizeof shape, "%s context=%u rows=%u", layer->name, context, rows);
    if (!gpu_lab_wants(lab, op, names[format], shape))
        return;
    const uint32_t end = rows == 1 ? context : context + rows;
    struct attention a = {.lab = lab,
                          .kv = {.format = format,
                                 .n_heads = layer->n_kv_heads,
                                 .head_size = layer->head_size,
                                 .capacity = end},
                          .n_heads = layer->n_heads,
                          .rows = rows,
                          .first = end - rows,
                          .window = layer->window};
    const size_t row_bytes = lode_kv_row_bytes(format, layer->head_size) * layer->n_kv_heads;
    a.half_bytes = aligned(row_bytes * end);
    a.n_copies = (uint32_t)(lab->probe.arena_bytes / (2 * a.half_bytes));
    if (!a.n_copies || (size_t)rows * a.n_heads * layer->head_size > (size_t)GPU_ROWS * GPU_COLS)
        return;
    probe_put_blocks(&lab->probe, 0, format == LODE_CACHE_Q8_0 ? LODE_Q8_0 : LODE_F16,
                     lab->probe.arena_bytes);
    double seen = 0;
    for (uint32_t r = 0; r < rows; r++) {
        const uint32_t all = a.first + r + 1;
        seen += layer->window && all > layer->window ? layer->window : all;
    }
    const double read = layer->window && end > layer->window + rows ? layer->window + rows : end;
    const struct gpu_cost cost = {2 * read * (double)row_bytes, 4 * seen * layer->n_heads * layer->head_size};
    gpu_lab_measure(lab, op, names[format], shape, cost, run_attention, &a);
}

void gpu_lab_attention(struct gpu_lab *lab)
{
    static const uint32_t decode[] = {512, 4096, 32768}, prefill[] = {0, 4096};
    static const enum lode_kv_format formats[] = {LODE_CACHE_F16, LODE_CACHE_Q8_0};
    for (uint32_t l = 0; l < sizeof layers / sizeof *layers; l++)
        for (uint32_t f = 0; f < 2; f++) {
            for (uint32_t c = 0; c < 3; c++)
                if (!layers[l].window || !c || decode[c - 1] < layers[l].window)
                    measure_attention(lab, &layers[l], formats[f], 1, decode[c]);
            for (uint32_t c = 0; c < 2; c++)
                measure_attention(lab, &layers[l], formats[f], 512, prefill[c]);
        }
}

// ---- small operations of one row: what they cost is the launch

struct small {
    struct gpu_lab *lab;
    enum { NORM, ADD_NORM, ADD, GEGLU, ROPE, ROUTER, COMBINE } which;
};

static void run_small(void *user)
{
    struct small *s = user;
    struct lode_device *device = s->lab->device;
    const struct lode_device_ops *ops = device->ops;
    float *x = s->lab->probe.x;
    const struct lode_rows row = {x, 1, HIDDEN, HIDDEN}, out = {s->lab->probe.out, 1, HIDDEN, HIDDEN};
    const struct lode_rows heads = {s->lab->probe.out, 1, 16 * 256, 16 * 256};
    const struct lode_rows slots = {x, USED, HIDDEN, HIDDEN}, logits = {x, 1, GPU_EXPERTS, GPU_EXPERTS};
    switch (s->which) {
    case NORM:
        ops->rms_norm(device, out, row, s->lab->weights, 1e-6f, 1);
        return;
    case ADD_NORM:
        ops->add_rms_norm(device, out, row, s->lab->weights, 1e-6f, 1);
        return;
    case ADD:
        ops->add(device, out, row, row, 1);
        return;
    case GEGLU:
        ops->geglu(device, out, row, row);
        return;
    case ROPE:
        ops->rope(device, heads, 16, 256, 1000, s->lab->weights);
        return;
    case ROUTER:
        ops->router(device, s->lab->ids, s->lab->weights + HIDDEN, logits, USED, NULL);
        return;
    case COMBINE:
        ops->experts_combine(device, out, slots, s->lab->weights, USED);
        return;
    }
}

void gpu_lab_small(struct gpu_lab *lab)
{
    static const char *const names[] = {"rms_norm", "add_rms_norm",   "add", "geglu", "rope",
                                        "router",   "experts_combine"};
    for (uint32_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct small s = {lab, i};
        if (gpu_lab_wants(lab, names[i], "F32", "26b rows=1"))
            gpu_lab_measure(lab, names[i], "F32", "26b rows=1", (struct gpu_cost){0, 0}, run_small, &s);
    }
}
