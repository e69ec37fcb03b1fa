// The table of an x86 instruction set's kernels; expects the multiply_<type> of x86_panel.h and x86_float.h.
// `workspace` is the type of a thread's workspace.
#ifndef LODE_CPU_X86_TABLE_H
#define LODE_CPU_X86_TABLE_H

#define X86_KERNEL_TABLE(workspace)                                                                          \
    {                                                                                                        \
        .quantize = quantize, .takes_rows8 = true, .workspace_bytes = sizeof(workspace), .multiply = {                            \
            [LODE_F32] = multiply_F32,                                                                       \
            [LODE_F16] = multiply_F16,                                                                       \
            [LODE_BF16] = multiply_BF16,                                                                     \
            [LODE_Q8_0] = multiply_Q8_0,                                                                     \
            [LODE_Q4_0] = multiply_Q4_0,                                                                     \
            [LODE_Q4_1] = multiply_Q4_1,                                                                     \
            [LODE_Q5_0] = multiply_Q5_0,                                                                     \
            [LODE_Q5_1] = multiply_Q5_1,                                                                     \
            [LODE_Q2_K] = multiply_Q2_K,                                                                     \
            [LODE_Q3_K] = multiply_Q3_K,                                                                     \
            [LODE_Q4_K] = multiply_Q4_K,                                                                     \
            [LODE_Q5_K] = multiply_Q5_K,                                                                     \
            [LODE_Q6_K] = multiply_Q6_K,                                                                     \
            [LODE_IQ4_NL] = multiply_IQ4_NL,                                                                 \
            [LODE_IQ4_XS] = multiply_IQ4_XS,                                                                 \
            [LODE_MXFP4] = multiply_MXFP4,                                                                   \
        }                                                                                                    \
    }

#endif
