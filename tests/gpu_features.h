// What a GPU's kernels are told that it can do, so that tests can have each kind of kernel on one device.
#ifndef LODE_TEST_GPU_FEATURES_H
#define LODE_TEST_GPU_FEATURES_H

#include "backends/backend.h"

#include <string.h>

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

// Each kind of kernel that the device has: without tensor cores, for which code of a card that has them was
// not compiled, and with them.
#define FOR_GPU_KERNELS(device, features)                                                                    \
    for (uint32_t all_ = test_gpu_features(device), pass_ = 0; pass_ < 2;                                    \
         test_gpu_set_features(device, all_), pass_++)                                                       \
        if (pass_ == 0 ? !(all_ & TEST_GPU_HAS_MMA_S8) || strncmp((device)->name, "simt", 4) == 0            \
                       : (all_ & TEST_GPU_HAS_MMA_S8) != 0)                                                  \
            for (uint32_t features = pass_ == 0 ? all_ & ~TEST_GPU_HAS_MMA_S8 : all_,                        \
                          once_ = (test_gpu_set_features(device, features), 1);                              \
                 once_; once_ = 0)

#endif
