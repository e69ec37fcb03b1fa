// What the tests of machine profiles share.
#ifndef LODE_TEST_PROFILE_CHECKS_H
#define LODE_TEST_PROFILE_CHECKS_H

#include "profiles/machine_profile.h"

// Its JSON, malloc'ed.
char *profile_written(const struct machine_profile *from);

// Written and read again it is the same, bit for bit. Both were cleared before they were filled.
void profile_expect_same_after_writing(const struct machine_profile *from);

#endif
