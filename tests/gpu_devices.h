// The GPUs that tests run on: simt0, which executes the kernels on the CPU, always; those of CUDA and HIP
// where they can be used. And what moves rows and matrices to them and back.
//
// Use:
//     FOR_GPU_DEVICES(device) {
//         struct lode_rows x = gpu_rows_up(device, host_x), out = gpu_rows_up(device, host_out);
//         device->ops->rms_norm(device, out, x, NULL, 1e-6f, 1);
//         gpu_rows_down(device, host_out, out);      // gaps between rows too: check_gaps(host_out, ...)
//         gpu_release(device, x.data), gpu_release(device, out.data);
//     }
#ifndef LODE_TEST_GPU_DEVICES_H
#define LODE_TEST_GPU_DEVICES_H

#include "backends/devices.h"

struct gpu_test_devices {
    struct device_list list;
    uint32_t n;
    struct lode_device *devices[DEVICES_MAX];
};

// Fails the test where simt0 cannot be opened. At the end every device must be free of faults.
void gpu_test_devices_open(struct gpu_test_devices *out);
void gpu_test_devices_close(struct gpu_test_devices *devices);

// A loop over all devices, which are opened before and closed behind it. Do not leave it by break or return.
#define FOR_GPU_DEVICES(device)                                                                              \
    for (struct gpu_test_devices devices_, *opened_ = (gpu_test_devices_open(&devices_), &devices_);         \
         opened_; gpu_test_devices_close(&devices_), opened_ = NULL)                                         \
        for (uint32_t device_at_ = 0; device_at_ < devices_.n; device_at_++)                                 \
            for (struct lode_device *device = devices_.devices[device_at_]; device; device = NULL)

// One device as the command line describes it ("simt0:memory=16M:link=0.1"), found in a list of its own;
// fails the test where it cannot be opened.
struct lode_device *gpu_test_open(struct device_list *list, const char *text);
void gpu_test_close(struct device_list *list, struct lode_device *device);

// Fails the test with the error's text unless the code is LODE_OK.
void gpu_must(int code, const struct lode_error *error);

// Scratch for calls up to these limits; fails the test where there is none.
void gpu_reserve_for(struct lode_device *device, const struct lode_limits *limits);

// A copy in memory of the device, behind which there are LODE_DEVICE_SLACK bytes of 0xff (a NaN). It is
// aligned to LODE_DEVICE_ALIGN and not to more. Released by gpu_release.
void *gpu_bytes_up(struct lode_device *device, const void *bytes, size_t n);
void gpu_bytes_down(struct lode_device *device, void *out, const void *memory, size_t n);
void gpu_release(struct lode_device *device, const void *memory);

// Rows with the same stride and what lies between them. data of what comes back is the device's.
struct lode_rows gpu_rows_up(struct lode_device *device, struct lode_rows host);
void gpu_rows_down(struct lode_device *device, struct lode_rows host, struct lode_rows rows);

// A matrix with the same distance of its rows.
struct lode_matrix gpu_matrix_up(struct lode_device *device, const struct lode_matrix *host);

// A job with its matrices there; its choices stay the host's. Released by gpu_expert_release.
struct lode_expert_job gpu_expert_up(struct lode_device *device, const struct lode_expert_job *host);
void gpu_expert_release(struct lode_device *device, const struct lode_expert_job *expert);

#endif
