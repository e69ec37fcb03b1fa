// A ceiling for the address space of the test's own process, to see what fails when there is no memory.
#ifndef LODE_TEST_ADDRESS_SPACE_H
#define LODE_TEST_ADDRESS_SPACE_H

#include <criterion/criterion.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/resource.h>
#include <unistd.h>

// The address sanitizer needs terabytes of it: tests with a ceiling are skipped there.
#ifdef __has_feature
#define LIMITS_KILL_THE_SANITIZER __has_feature(address_sanitizer)
#elif defined(__SANITIZE_ADDRESS__)
#define LIMITS_KILL_THE_SANITIZER 1
#else
#define LIMITS_KILL_THE_SANITIZER 0
#endif

static inline uint64_t address_space_bytes(void)
{
    unsigned long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    cr_assert(file && fscanf(file, "%lu", &pages) == 1);
    fclose(file);
    return (uint64_t)pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

// Until the test ends, or is told another one.
static inline void address_space_limit(uint64_t bytes)
{
    cr_assert_eq(setrlimit(RLIMIT_AS, &(struct rlimit){(rlim_t)bytes, RLIM_INFINITY}), 0);
}

#endif
