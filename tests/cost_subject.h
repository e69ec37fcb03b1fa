// Models of which only the shapes are there, and machines of round figures, for tests of the cost model.
// Whatever fails, fails the test.
#ifndef LODE_TESTS_COST_SUBJECT_H
#define LODE_TESTS_COST_SUBJECT_H

#include "core/gemma4.h"
#include "core/shape_file.h"
#include "core/workload.h"
#include "placement/cost.h"

#define GIB ((uint64_t)1 << 30)

struct subject {
    struct shape_file file;
    struct gguf *gguf;
    struct gemma_model model;
    struct workload work;
    struct machine_profile profile; // 20 GB/s of memory, 2 of the drive
};

struct subject *open_subject(const char *shape, const char *type);
void close_subject(struct subject *subject);

// The same rate whatever x.
struct profile_curve flat(double y);

// As many bytes a second whatever the rows, so that products take rows' time nowhere.
void make_machine(struct machine_profile *out, double memory_gbps, double drive_gbps);

// Adds a GPU, likewise; its operations and waiting take no time.
struct profile_device *add_gpu(struct machine_profile *profile, double memory_gbps, double link_gbps);

void expect_near(double got, double wanted, double share, const char *what);

#endif
