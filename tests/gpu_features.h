// What a GPU's kernels are told that it can do, so that tests can have each kind of kernel on one device.
#ifndef LODE_TEST_GPU_FEATURES_H
#define LODE_TEST_GPU_FEATURES_H

#include "backends/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

#define TEST_GPU_HAS_DOT4 1u // as in backends/gpu/gpu.h
#define TEST_GPU_HAS_MMA_S8 2u

uint32_t test_gpu_features(struct lode_device *device);
// Operations from now on take the device for one that has these; they must be among what it has.
void test_gpu_set_features(struct lode_device *device, uint32_t features);

#ifdef __cplusplus
}
#endif

#endif
