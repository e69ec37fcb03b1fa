// Operations on single values. The work is cut into pieces of a row, for a single row may be long: a
// vocabulary of logits is 262,144.
#include "backends/cpu/parallel.h"

#define PIECE_COLS 4096
#define TRANSCENDENTAL_COST 6 // a tanh or a GELU takes about as long as so many additions

struct elementwise_call {
    struct lode_rows out, a, b; // an operation in place has only out
    float number;               // scale or cap
    size_t row_pieces;
};

struct piece {
    float *out;
    const float *a, *b;
    size_t n;
};

static struct piece piece_at(const struct elementwise_call *call, size_t item)
{
    size_t row = item / call->row_pieces, col = item % call->row_pieces * PIECE_COLS,
           left = call->out.cols - col;
    return (struct piece){
        .out = call->out.data + row * call->out.stride + col,
        .a = call->a.data ? call->a.data + row * call->a.stride + col : NULL,
        .b = call->b.data ? call->b.data + row * call->b.stride + col : NULL,
        .n = left < PIECE_COLS ? left : PIECE_COLS,
    };
}

static void for_pieces(struct lode_device *device, struct elementwise_call *call, size_t cost,
                       cpu_item_fn body)
{
    call->row_pieces = (call->out.cols + PIECE_COLS - 1) / PIECE_COLS;
    cpu_for_items(cpu_device_of(device), call->out.n * call->row_pieces, cost * call->out.n * call->out.cols,
                  body, call);
}

static void add_piece(const struct cpu_device *device, const void *call, size_t item, uint32_t thread)
{
    (void)thread;
    struct piece piece = piece_at(call, item);
    device->vector->add(piece.out, piece.a, piece.b, ((const struct elementwise_call *)call)->number,
                        piece.n);
}

static void geglu_piece(const struct cpu_device *device, const void *call, size_t item, uint32_t thread)
{
    (void)thread;
    struct piece piece = piece_at(call, item);
    device->vector->geglu(piece.out, piece.a, piece.b, piece.n);
}

static void scale_piece(const struct cpu_device *device, const void *call, size_t item, uint32_t thread)
{
    (void)thread;
    struct piece piece = piece_at(call, item);
    device->vector->scale_weighted(piece.out, piece.out, ((const struct elementwise_call *)call)->number,
                                   NULL, piece.n);
}

static void softcap_piece(const struct cpu_device *device, const void *call, size_t item, uint32_t thread)
{
    (void)thread;
    struct piece piece = piece_at(call, item);
    device->vector->softcap(piece.out, ((const struct elementwise_call *)call)->number, piece.n);
}

void cpu_add(struct lode_device *device, struct lode_rows out, struct lode_rows a, struct lode_rows b,
             float scale)
{
    struct elementwise_call call = {.out = out, .a = a, .b = b, .number = scale};
    for_pieces(device, &call, 1, add_piece);
}

void cpu_geglu(struct lode_device *device, struct lode_rows out, struct lode_rows a, struct lode_rows b)
{
    struct elementwise_call call = {.out = out, .a = a, .b = b};
    for_pieces(device, &call, TRANSCENDENTAL_COST, geglu_piece);
}

void cpu_scale(struct lode_device *device, struct lode_rows x, float scale)
{
    struct elementwise_call call = {.out = x, .number = scale};
    for_pieces(device, &call, 1, scale_piece);
}

void cpu_softcap(struct lode_device *device, struct lode_rows x, float cap)
{
    struct elementwise_call call = {.out = x, .number = cap};
    for_pieces(device, &call, TRANSCENDENTAL_COST, softcap_piece);
}
