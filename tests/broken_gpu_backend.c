// Shared objects as they might be in the place of a GPU backend: compiled once for each thing that is wrong.
#include "backends/gpu/gpu_backend.h"

#include <stdio.h>

#ifdef NO_RUNTIME
int amdhip64_of_the_tests(void);
#endif

static int count(uint32_t *out, struct lode_error *error)
{
    (void)out;
    (void)error;
#if defined NO_DRIVER
    snprintf(error->text, sizeof error->text, "no driver for the test");
    return error->code = LODE_ERR_UNSUPPORTED;
#elif defined NO_DEVICE
    *out = 0;
#elif defined MANY_DEVICES
    *out = 4000000000u;
#elif defined NO_RUNTIME
    *out = (uint32_t)amdhip64_of_the_tests();
#else
    *out = 3;
#endif
    return LODE_OK;
}

static int describe(struct lode_gpu *out, uint32_t index, struct lode_error *error)
{
    *out = (struct lode_gpu){.name = "a GPU", .architecture = "sm_61", .is_built = index != 1};
    if (index != 2)
        return LODE_OK;
    snprintf(error->text, sizeof error->text, "it has fallen off the bus");
    return error->code = LODE_ERR_IO;
}

static int open_device(struct lode_device **out, uint32_t index, const struct lode_gpu_options *options,
                       struct lode_error *error)
{
    (void)index;
    (void)options;
    *out = NULL;
    snprintf(error->text, sizeof error->text, "the test opens nothing");
    return error->code = LODE_ERR_UNSUPPORTED;
}

#ifndef NO_SYMBOL
const struct lode_gpu_backend *lode_gpu_backend(void)
{
#ifdef NULL_TABLE
    return NULL;
#else
    static const struct lode_gpu_backend table = {
#ifdef OLD_ABI
        .abi = LODE_GPU_ABI + 1,
#else
        .abi = LODE_GPU_ABI,
#endif
#ifdef NO_RUNTIME
        .name = "hip",
#else
        .name = "cuda",
#endif
        .toolkit = "none",
        .architectures = "sm_75 compute_75",
        .count = count,
        .describe = describe,
        .open = open_device,
    };
    return &table;
#endif
}
#endif

const void *const broken_gpu_backend_uses[] = {(const void *)count, (const void *)describe,
                                               (const void *)open_device};
