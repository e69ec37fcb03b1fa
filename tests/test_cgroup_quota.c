// The CPU quota of control groups, in captured trees of both versions.
#include "backends/cpu/cgroup_quota.h"
#include "tests/test_folder.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static char folder[TEST_FOLDER_SIZE];

static void make_folder(void)
{
    test_folder_make(folder, NULL);
}

static void remove_folder(void)
{
    test_folder_remove(folder);
}

static void write_file(const char *name, const char *text)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    for (char *slash = path + strlen(folder) + 1; (slash = strchr(slash, '/')); slash++) {
        *slash = 0;
        mkdir(path, 0700);
        *slash = '/';
    }
    FILE *file = fopen(path, "w");
    cr_assert_not_null(file);
    fputs(text, file);
    fclose(file);
}

static double quota(void)
{
    char membership[128];
    snprintf(membership, sizeof membership, "%s/membership", folder);
    return cgroup_quota_processors(membership, folder);
}

TestSuite(cgroup_quota, .init = make_folder, .fini = remove_folder);

Test(cgroup_quota, is_none_without_files)
{
    cr_assert_eq(quota(), INFINITY);
    write_file("membership", "0::/somewhere/else\n");
    cr_assert_eq(quota(), INFINITY);
}

Test(cgroup_quota, of_version_2_is_a_share_of_a_period)
{
    write_file("membership", "0::/box\n");
    write_file("box/cpu.max", "250000 100000\n");
    cr_assert_eq(quota(), 2.5);
    write_file("box/cpu.max", "200000 100000\n");
    cr_assert_eq(quota(), 2);
    write_file("box/cpu.max", "1000 100000\n");
    cr_assert_eq(quota(), 0.01);
    write_file("box/cpu.max", "max 100000\n");
    cr_assert_eq(quota(), INFINITY);
}

Test(cgroup_quota, of_a_group_above_counts_too)
{
    write_file("membership", "0::/slice/box\n");
    write_file("slice/box/cpu.max", "800000 100000\n");
    write_file("slice/cpu.max", "400000 100000\n");
    cr_assert_eq(quota(), 4);
}

Test(cgroup_quota, of_the_mount_counts_when_the_path_is_the_hosts)
{
    write_file("membership", "0::/host/only\n");
    write_file("cpu.max", "600000 100000\n");
    cr_assert_eq(quota(), 6);
}

Test(cgroup_quota, of_version_1_is_read_under_either_name)
{
    write_file("membership", "7:memory:/m\n3:cpu,cpuacct:/box\n0::/\n");
    write_file("cpu,cpuacct/box/cpu.cfs_quota_us", "150000\n");
    write_file("cpu,cpuacct/box/cpu.cfs_period_us", "100000\n");
    cr_assert_eq(quota(), 1.5);
    write_file("cpu/cpu.cfs_quota_us", "100000\n");
    write_file("cpu/cpu.cfs_period_us", "100000\n");
    cr_assert_eq(quota(), 1);
}

Test(cgroup_quota, of_version_1_may_be_none)
{
    write_file("membership", "1:cpu:/\n2:cpuset:/\n");
    write_file("cpu/cpu.cfs_quota_us", "-1\n");
    write_file("cpu/cpu.cfs_period_us", "100000\n");
    cr_assert_eq(quota(), INFINITY);
}

Test(cgroup_quota, ignores_broken_files)
{
    write_file("membership", "nonsense\n0::/box\n:\n::\n");
    write_file("box/cpu.max", "a b c\n");
    cr_assert_eq(quota(), INFINITY);
    write_file("box/cpu.max", "100000 0\n");
    cr_assert_eq(quota(), INFINITY);
    write_file("box/cpu.max", "nan 1\n");
    cr_assert_eq(quota(), INFINITY);
    write_file("box/cpu.max", "");
    cr_assert_eq(quota(), INFINITY);
}
