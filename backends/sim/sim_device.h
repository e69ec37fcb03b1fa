// A device that computes nothing: operations move a virtual clock on by what they would take.
//
// It stands where the CPU would, with the CPU's layouts, so that the forward pass, the residency and its
// policies run as they are, beside a simulated drive (io/io_sim.h) on the same clock. How long an operation
// takes, and what a router chooses, its caller says. Memory is address space (sim_memory.h): a model of 17 GB
// takes none of it. What the host looks at is there: a router's choices; tables that were uploaded; results
// that lie in the host's own memory (logits) are zero.
#ifndef LODE_SIM_DEVICE_H
#define LODE_SIM_DEVICE_H

#include "backends/backend.h"
#include "base/sim_clock.h"

enum sim_op {
    SIM_UPLOAD,
    SIM_DOWNLOAD,
    SIM_SYNC,
    SIM_EMBED,
    SIM_MATMUL,
    SIM_MATMUL_GEGLU,
    SIM_EXPERTS,
    SIM_EXPERTS_COMBINE,
    SIM_ROUTER,
    SIM_RMS_NORM,
    SIM_ADD_RMS_NORM,
    SIM_ADD,
    SIM_GEGLU,
    SIM_SCALE,
    SIM_SOFTCAP,
    SIM_ROPE,
    SIM_KV_STORE,
    SIM_ATTENTION,
    SIM_OPS,
};

// What there is to do. An operation over several matrices is asked about matrix by matrix.
struct sim_work {
    enum sim_op op;
    uint32_t n_rows, cols; // of the activations that go in
    // Weights that are read (embed: its rows), K and V that the queries look at, each query for itself, or
    // what is copied; else 0.
    uint64_t bytes;
    const struct lode_matrix *matrix; // embed, matmul, matmul_geglu, experts; else NULL
    uint32_t k;                       // of the router and the combination
    // Of attention and kv_store; else NULL and 0.
    const struct lode_kv *kv;
    uint32_t n_heads; // of the queries
    uint32_t first_position, window;
    uint64_t positions; // that the queries look at, in all
};

// Which choice a router is asked for: that of the layer whose attention came last, or, when a router has
// answered since then, a guess of what the next layer will choose. Each layer has one attention, so
// n_attended counts layers. Rows are the last ones of the pass: those whose logits nobody wants leave it.
struct sim_route {
    uint32_t n_rows, k, n_experts;
    uint32_t n_attended; // operations of attention since the pass began
    uint32_t n_routed;   // routers since the last of them, or since the pass began
};

struct sim_device_options {
    struct sim_clock *clock; // must outlive the device
    // Seconds that something takes, finite and not negative. The device moves the clock on.
    double (*seconds)(void *user, const struct sim_work *work);
    // Writes ids and weights, [n_rows][k]; on failure fills the error. NULL for models without experts.
    int (*choose)(void *user, const struct sim_route *route, int32_t *ids, float *weights,
                  struct lode_error *error);
    void *user;
    size_t scratch_bytes; // what the simulated device would take for its scratch
};

// What a callback does wrong is a fault of the device: later operations do nothing, and sync and download
// report it.
int sim_device_open(struct lode_device **out, const struct sim_device_options *options,
                    struct lode_error *error);

struct sim_device_figures {
    uint64_t calls[SIM_OPS], ns[SIM_OPS];
    uint64_t total_ns;
};

void sim_device_count(const struct lode_device *device, struct sim_device_figures *out);

const char *sim_op_name(enum sim_op op); // "matmul"

#endif
