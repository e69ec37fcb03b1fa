// Kernels are compiled for one type of weights each; which one a call wants is known when the program runs.
#ifndef LODE_GPU_OF_TYPE_H
#define LODE_GPU_OF_TYPE_H

#include "base/tensor_type.h"

// Stands for a type in the arguments of a function.
template <int TYPE> struct gpu_type_number {
    static constexpr int type = TYPE;
};

// Calls call(gpu_type_number<type>()), where the argument's `type` is a constant. Nothing for LODE_TYPE_END.
template <typename Call> void gpu_of_type(enum lode_type type, const Call &call)
{
    switch (type) {
#define CASE(type)                                                                                           \
    case type:                                                                                               \
        return call(gpu_type_number<type>())
        CASE(LODE_F32);
        CASE(LODE_F16);
        CASE(LODE_BF16);
        CASE(LODE_Q4_0);
        CASE(LODE_Q4_1);
        CASE(LODE_Q5_0);
        CASE(LODE_Q5_1);
        CASE(LODE_Q8_0);
        CASE(LODE_Q2_K);
        CASE(LODE_Q3_K);
        CASE(LODE_Q4_K);
        CASE(LODE_Q5_K);
        CASE(LODE_Q6_K);
        CASE(LODE_IQ4_NL);
        CASE(LODE_IQ4_XS);
        CASE(LODE_MXFP4);
#undef CASE
    case LODE_TYPE_END:
        return;
    }
}

#endif
