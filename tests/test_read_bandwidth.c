// The read bandwidth of threads: plausible, given back, and refused where it cannot be had.
#include "profiles/host_memory.h"
#include "profiles/read_bandwidth.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#if defined(__SANITIZE_ADDRESS__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SANITIZED 1
#endif
#endif

#define MIB ((uint64_t)1 << 20)

// A single DIMM reads some 10 GB/s; a machine of many sockets does not come near 5,000.
Test(read_bandwidth, is_that_of_a_machine)
{
    for (uint32_t threads = 1; threads <= 2; threads++) {
        double gbps = 0;
        struct lode_error error = {0};
        cr_assert_eq(read_bandwidth_measure(&gbps, threads, 0, &error), 0, "%s", error.text);
        cr_expect_gt(gbps, 0.5, "%u threads: %g GB/s", threads, gbps);
        cr_expect_lt(gbps, 5000, "%u threads: %g GB/s", threads, gbps);
    }
}

Test(read_bandwidth, more_threads_than_processors_come_to_an_end)
{
    double gbps = 0;
    struct lode_error error = {0};
    cr_assert_eq(read_bandwidth_measure(&gbps, 12, 96 * MIB, &error), 0, "%s", error.text);
    cr_expect_gt(gbps, 0);
}

Test(read_bandwidth, gives_its_memory_back)
{
    double gbps;
    const uint64_t before_bytes = host_rss_bytes();
    if (!before_bytes)
        cr_skip_test("the system does not tell the resident size");
    cr_assert_eq(read_bandwidth_measure(&gbps, 2, 256 * MIB, NULL), 0);
    cr_expect_geq(host_peak_rss_bytes(), before_bytes + 200 * MIB, "it was in memory");
    cr_expect_leq(host_peak_rss_bytes(), before_bytes + 300 * MIB, "no more than it was allowed");
    cr_expect_leq(host_rss_bytes(), before_bytes + 32 * MIB);
}

Test(read_bandwidth, of_nothing_is_refused)
{
    double gbps = 7;
    struct lode_error error = {0};
    cr_expect_eq(read_bandwidth_measure(&gbps, 0, 0, &error), LODE_ERR_ARGUMENT);
    cr_expect_eq(gbps, 0);
    cr_expect_eq(read_bandwidth_measure(&gbps, 4, 8 * MIB, &error), LODE_ERR_MEMORY);
    cr_expect_not_null(strstr(error.text, "4 threads"), "%s", error.text);
}

static void limit_address_space(uint64_t more_bytes)
{
#ifdef SANITIZED
    cr_skip_test("the sanitizers need address space without a limit");
#endif
    FILE *file = fopen("/proc/self/statm", "r");
    unsigned long long pages;
    if (!file || fscanf(file, "%llu", &pages) != 1)
        cr_skip_test("the system does not tell the address space that is in use");
    fclose(file);
    const rlim_t most = pages * 4096 + more_bytes;
    cr_assert_eq(setrlimit(RLIMIT_AS, &(struct rlimit){most, most}), 0);
}

Test(read_bandwidth, no_memory_for_the_buffer_is_an_error)
{
    double gbps;
    struct lode_error error = {0};
    limit_address_space(100 * MIB);
    cr_expect_eq(read_bandwidth_measure(&gbps, 2, 256 * MIB, &error), LODE_ERR_MEMORY);
    cr_expect_not_null(strstr(error.text, "268435456 bytes"), "%s", error.text);
}

// The threads that did start must not wait for the others for ever.
Test(read_bandwidth, a_thread_that_cannot_start_is_an_error, .timeout = 20)
{
    double gbps;
    struct lode_error error = {0};
    limit_address_space(400 * MIB);
    cr_expect_eq(read_bandwidth_measure(&gbps, 64, 256 * MIB, &error), LODE_ERR_MEMORY);
    cr_expect_not_null(strstr(error.text, "cannot start thread"), "%s", error.text);
}
