// What the build tries a vendor's compiler with.
#ifdef __HIP__
#include <hip/hip_runtime.h>
#endif

__global__ void try_kernel(float *x)
{
    x[threadIdx.x] = 1;
}
