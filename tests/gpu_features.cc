// Reaches into a GPU device; see gpu_features.h. The device's struct is the same whoever's runtime it holds.
#ifndef LODE_GPU_SIMT
#define LODE_GPU_SIMT
#endif
#include "tests/gpu_features.h"

#include "backends/gpu/gpu_device.h"

static_assert(TEST_GPU_HAS_DOT4 == GPU_HAS_DOT4 && TEST_GPU_HAS_MMA_S8 == GPU_HAS_MMA_S8,
              "the features are those of gpu.h");

uint32_t test_gpu_features(struct lode_device *device)
{
    return gpu_device_of(device)->queue.features;
}

void test_gpu_set_features(struct lode_device *device, uint32_t features)
{
    gpu_device_of(device)->queue.features = features;
}
