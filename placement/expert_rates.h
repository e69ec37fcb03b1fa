// Rates of experts from a machine profile, for expert_split.h.
#ifndef LODE_EXPERT_RATES_H
#define LODE_EXPERT_RATES_H

#include "placement/expert_split.h"
#include "profiles/machine_profile.h"

// An expert of so many bytes, whose matrices are mostly of this type, on the CPU or a GPU of the profile. Not
// known (n_points 0) where the profile has no curve of the type.
struct expert_rates expert_rates_of(const struct profile_device *device, enum lode_type type,
                                    uint64_t expert_bytes);

#endif
