// See cost_subject.h.
#include "tests/cost_subject.h"

#include "tests/synth_files.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

struct profile_curve flat(double y)
{
    return (struct profile_curve){.n_points = 2, .points = {{1, y, 0}, {1e6, y, 0}}};
}

static void make_kernels(struct profile_device *out, double gbps)
{
    for (uint32_t type = 0; type < LODE_TYPE_END; type++)
        if (lode_type_find(type))
            out->kernels[type] =
                (struct profile_kernels){.known = true, .dense_gbps = flat(gbps), .expert_gbps = flat(gbps)};
}

void make_machine(struct machine_profile *out, double memory_gbps, double drive_gbps)
{
    machine_profile_clear(out);
    snprintf(out->name, sizeof out->name, "test");
    out->cpu.cores = out->cpu.threads = 4;
    out->cpu.memory_bytes = 64 * GIB;
    out->cpu.read_gbps = flat(memory_gbps);
    out->cpu.attention_decode_gbps = flat(memory_gbps);
    out->cpu.attention_prefill_gflops = flat(10 * memory_gbps);
    make_kernels(&out->cpu, memory_gbps);
    out->n_drives = 1;
    out->drives[0].direct_gbps = flat(drive_gbps);
    out->drives[0].latency_us = 100;
}

struct profile_device *add_gpu(struct machine_profile *profile, double memory_gbps, double link_gbps)
{
    struct profile_device *gpu = &profile->gpus[profile->n_gpus++];
    *gpu = (struct profile_device){.memory_bytes = 24 * GIB,
                                   .name = "test gpu",
                                   .backend = "cuda",
                                   .read_gbps = flat(memory_gbps),
                                   .attention_decode_gbps = flat(memory_gbps),
                                   .attention_prefill_gflops = flat(10 * memory_gbps),
                                   .upload_pinned_gbps = flat(link_gbps),
                                   .download_pinned_gbps = flat(link_gbps)};
    make_kernels(gpu, memory_gbps);
    return gpu;
}

struct subject *open_subject(const char *shape, const char *type)
{
    struct subject *s = calloc(1, sizeof *s);
    struct lode_error error;
    const struct lode_synth_options options = synth_options_of(shape, type);
    cr_assert_eq(shape_file_open(&s->file, &options, &error), 0, "%s", error.text);
    cr_assert_eq(gguf_open(&s->gguf, s->file.path, &error), 0, "%s", error.text);
    cr_assert_eq(gemma_model_load(&s->model, s->gguf, &error), 0, "%s", error.text);
    cr_assert_eq(gemma_workload(&s->work, &s->model, &error), 0, "%s", error.text);
    make_machine(&s->profile, 20, 2);
    return s;
}

void close_subject(struct subject *s)
{
    workload_close(&s->work);
    gemma_model_free(&s->model);
    gguf_close(s->gguf);
    shape_file_close(&s->file);
    free(s);
}

void expect_near(double got, double wanted, double share, const char *what)
{
    cr_expect(fabs(got - wanted) <= share * fabs(wanted), "%s: %g instead of %g", what, got, wanted);
}
