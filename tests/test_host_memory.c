// The memory that a process may use, read from captured trees of /proc and control groups.
#include "base/lode_error.h"
#include "profiles/host_memory.h"
#include "tests/test_folder.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define KIB ((uint64_t)1 << 10)
#define MIB ((uint64_t)1 << 20)
#define GIB ((uint64_t)1 << 30)

struct tree {
    char root[TEST_FOLDER_SIZE];
    struct host_memory memory;
    struct lode_error error;
};

static void put(const struct tree *tree, const char *name, const char *content)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", tree->root, name);
    for (char *slash = path + strlen(tree->root) + 1; (slash = strchr(slash, '/')); slash++) {
        *slash = '\0';
        mkdir(path, 0700);
        *slash = '/';
    }
    FILE *file = fopen(path, "w");
    cr_assert(file, "%s", path);
    fputs(content, file);
    fclose(file);
}

static void make_tree(struct tree *tree)
{
    *tree = (struct tree){0};
    test_folder_make(tree->root, NULL);
    put(tree, "proc/meminfo",
        "MemTotal:       32768000 kB\nMemFree:         1000000 kB\nMemAvailable:   20480000 kB\n"
        "Buffers:            5876 kB\nCached:         19000000 kB\n");
}

static void remove_tree(struct tree *tree)
{
    test_folder_remove(tree->root);
}

static int read_tree(struct tree *tree)
{
    return host_memory_read(&tree->memory, tree->root, &tree->error);
}

#define MOUNT_V2 "29 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
#define MOUNT_V1 "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory\n"

static void check(struct tree *tree, uint64_t available_bytes, uint64_t limit_bytes)
{
    cr_assert_eq(read_tree(tree), 0, "%s", tree->error.text);
    cr_assert_eq(tree->memory.total_bytes, 32768000 * KIB);
    cr_assert_eq(tree->memory.available_bytes, available_bytes, "%llu MiB",
                 (unsigned long long)(tree->memory.available_bytes >> 20));
    cr_assert_eq(tree->memory.limit_bytes, limit_bytes);
}

Test(host_memory, without_control_groups_is_that_of_the_machine)
{
    struct tree tree;
    make_tree(&tree);
    check(&tree, 20480000 * KIB, HOST_MEMORY_NO_LIMIT);
    remove_tree(&tree);
}

Test(host_memory, v2_counts_the_limit_less_usage_without_inactive_files)
{
    struct tree tree;
    make_tree(&tree);
    put(&tree, "proc/self/mountinfo", "23 1 8:1 / / rw - ext4 /dev/sda1 rw\n" MOUNT_V2);
    put(&tree, "proc/self/cgroup", "0::/user.slice/lode.scope\n");
    put(&tree, "sys/fs/cgroup/user.slice/lode.scope/memory.max", "8589934592\n");
    put(&tree, "sys/fs/cgroup/user.slice/lode.scope/memory.high", "max\n");
    put(&tree, "sys/fs/cgroup/user.slice/lode.scope/memory.current", "6442450944\n");
    put(&tree, "sys/fs/cgroup/user.slice/lode.scope/memory.stat",
        "anon 1073741824\nfile 5368709120\ninactive_anon 77\ninactive_file 4294967296\n");
    put(&tree, "sys/fs/cgroup/user.slice/memory.max", "max\n");
    check(&tree, 6 * GIB, 8 * GIB); // 8 - (6 - 4)
    remove_tree(&tree);
}

Test(host_memory, v2_memory_high_is_a_limit_too)
{
    struct tree tree;
    make_tree(&tree);
    put(&tree, "proc/self/mountinfo", MOUNT_V2);
    put(&tree, "proc/self/cgroup", "0::/a\n");
    put(&tree, "sys/fs/cgroup/a/memory.max", "8589934592\n");
    put(&tree, "sys/fs/cgroup/a/memory.high", "3221225472\n");
    put(&tree, "sys/fs/cgroup/a/memory.current", "1073741824");
    check(&tree, 2 * GIB, 3 * GIB);
    remove_tree(&tree);
}

Test(host_memory, the_tightest_group_up_to_the_root_counts)
{
    struct tree tree;
    make_tree(&tree);
    put(&tree, "proc/self/mountinfo", MOUNT_V2);
    put(&tree, "proc/self/cgroup", "0::/a/b/c\n");
    put(&tree, "sys/fs/cgroup/a/b/c/memory.max", "8589934592\n");
    put(&tree, "sys/fs/cgroup/a/b/c/memory.current", "0\n");
    put(&tree, "sys/fs/cgroup/a/memory.max",
        "10737418240\n"); // wider, but its other children have taken 9 GiB
    put(&tree, "sys/fs/cgroup/a/memory.current", "9663676416\n");
    check(&tree, 1 * GIB, 8 * GIB);
    put(&tree, "sys/fs/cgroup/memory.max", "524288000\n"); // a container's own group at the mount point
    put(&tree, "sys/fs/cgroup/memory.current", "0\n");
    check(&tree, 500 * MIB, 500 * MIB);
    remove_tree(&tree);
}

Test(host_memory, a_group_over_its_limit_has_nothing_left)
{
    struct tree tree;
    make_tree(&tree);
    put(&tree, "proc/self/mountinfo", MOUNT_V2);
    put(&tree, "proc/self/cgroup", "0::/\n");
    put(&tree, "sys/fs/cgroup/memory.high", "1000\n");
    put(&tree, "sys/fs/cgroup/memory.current", "2000\n");
    check(&tree, 0, 1000);
    put(&tree, "sys/fs/cgroup/memory.stat", "inactive_file 5000\n");
    check(&tree, 1000, 1000);
    remove_tree(&tree);
}

Test(host_memory, a_limit_above_the_machine_does_not_add_to_it)
{
    struct tree tree;
    make_tree(&tree);
    put(&tree, "proc/self/mountinfo", MOUNT_V2);
    put(&tree, "proc/self/cgroup", "0::/\n");
    put(&tree, "sys/fs/cgroup/memory.max", "1099511627776\n");
    check(&tree, 20480000 * KIB, 1024 * GIB);
    remove_tree(&tree);
}

Test(host_memory, v1_is_read_beside_a_v2_without_the_memory_controller)
{
    struct tree tree;
    make_tree(&tree);
    put(&tree, "proc/self/mountinfo",
        "33 31 0:30 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n" MOUNT_V1
        "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n");
    put(&tree, "proc/self/cgroup", "9:name=systemd:/x\n4:cpu,cpuacct:/other\n3:memory:/jobs/1\n0::/\n");
    put(&tree, "sys/fs/cgroup/memory/jobs/1/memory.limit_in_bytes", "4294967296\n");
    put(&tree, "sys/fs/cgroup/memory/jobs/1/memory.usage_in_bytes", "3221225472\n");
    put(&tree, "sys/fs/cgroup/memory/jobs/1/memory.stat",
        "inactive_file 17\nhierarchical_memory_limit 4294967296\ntotal_inactive_file 2147483648\n");
    put(&tree, "sys/fs/cgroup/memory/jobs/memory.limit_in_bytes", "9223372036854771712\n");
    put(&tree, "sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
    check(&tree, 3 * GIB, 4 * GIB);
    remove_tree(&tree);
}

Test(host_memory, v1_without_limits_has_none)
{
    struct tree tree;
    make_tree(&tree);
    put(&tree, "proc/self/mountinfo", MOUNT_V1);
    put(&tree, "proc/self/cgroup", "3:memory:/\n");
    put(&tree, "sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854710272\n"); // with pages of 64 KiB
    put(&tree, "sys/fs/cgroup/memory/memory.usage_in_bytes", "100\n");
    check(&tree, 20480000 * KIB, HOST_MEMORY_NO_LIMIT);
    remove_tree(&tree);
}

Test(host_memory, a_container_sees_its_group_at_the_mount_point)
{
    struct tree tree;
    make_tree(&tree);
    put(&tree, "proc/self/mountinfo",
        "35 31 0:32 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n");
    put(&tree, "sys/fs/cgroup/memory/memory.limit_in_bytes", "2147483648\n");
    put(&tree, "sys/fs/cgroup/memory/memory.usage_in_bytes", "1073741824\n");
    put(&tree, "sys/fs/y/memory.limit_in_bytes",
        "5\n"); // no group of ours: the third path must not lead there
    static const char *const groups[] = {"3:memory:/docker/abc\n", "3:memory:/docker/abcdef/x\n",
                                         "3:memory:/docker/abc/../../y\n",
                                         "3:memory:/docker/abc/gone/away\n"};
    for (int i = 0; i < 4; i++) {
        put(&tree, "proc/self/cgroup", groups[i]);
        check(&tree, 1 * GIB, 2 * GIB);
    }
    put(&tree, "sys/fs/cgroup/memory/inner/memory.limit_in_bytes", "1000\n");
    put(&tree, "proc/self/cgroup", "3:memory:/docker/abc/inner\n");
    check(&tree, 1000, 1000);
    remove_tree(&tree);
}

Test(host_memory, mount_points_with_blanks_are_found)
{
    struct tree tree;
    make_tree(&tree);
    put(&tree, "proc/self/mountinfo", "29 23 0:26 / /my\\040groups rw - cgroup2 cgroup2 rw\n");
    put(&tree, "proc/self/cgroup", "0::/\n");
    put(&tree, "my groups/memory.max", "1000\n");
    check(&tree, 1000, 1000);
    remove_tree(&tree);
}

Test(host_memory, a_limit_that_is_no_number_is_an_error)
{
    static const char *const broken[] = {
        "", "unlimited\n", "-1\n", "12x\n", "99999999999999999999999\n", "maximum\n"};
    struct tree tree;
    make_tree(&tree);
    put(&tree, "proc/self/mountinfo", MOUNT_V2);
    put(&tree, "proc/self/cgroup", "0::/\n");
    for (int i = 0; i < 6; i++) {
        put(&tree, "sys/fs/cgroup/memory.max", broken[i]);
        cr_assert_eq(read_tree(&tree), LODE_ERR_FORMAT, "%s", broken[i]);
        cr_assert(strstr(tree.error.text, "memory.max"), "%s", tree.error.text);
    }
    put(&tree, "sys/fs/cgroup/memory.max", "1000\n");
    put(&tree, "sys/fs/cgroup/memory.current", "?\n");
    cr_assert_eq(read_tree(&tree), LODE_ERR_FORMAT);
    remove_tree(&tree);
}

Test(host_memory, a_missing_or_broken_meminfo_is_an_error)
{
    static const char *const broken[] = {"", "MemTotal: kB\nMemAvailable: 5 kB\n", "MemTotal: 5 kB\n",
                                         "MemTotal: 99999999999999999 kB\nMemAvailable: 5 kB\n",
                                         "MemTotal: 5 kB\nMemAvailable: 99999999999999999999999 kB\n"};
    struct tree tree;
    make_tree(&tree);
    for (int i = 0; i < 5; i++) {
        put(&tree, "proc/meminfo", broken[i]);
        int code = read_tree(&tree);
        cr_assert_eq(code, LODE_ERR_FORMAT, "%s", broken[i]);
        cr_assert(strstr(tree.error.text, "proc/meminfo"), "%s", tree.error.text);
    }
    remove_tree(&tree);
    cr_assert_eq(read_tree(&tree), LODE_ERR_IO);
    cr_assert(strstr(tree.error.text, tree.root), "%s", tree.error.text);
}

Test(host_memory, refuses_paths_that_are_too_long)
{
    struct host_memory memory;
    struct lode_error error;
    char *root = malloc(10000);
    memset(root, 'x', 9999);
    root[9999] = '\0';
    cr_assert_eq(host_memory_read(&memory, root, &error), LODE_ERR_ARGUMENT);
    free(root);
}

Test(host_memory, of_this_machine_makes_sense)
{
    struct host_memory memory;
    struct lode_error error;
    cr_assert_eq(host_memory_read(&memory, "/", &error), 0, "%s", error.text);
    cr_assert_gt(memory.total_bytes, 64 * MIB);
    cr_assert_gt(memory.available_bytes, 0);
    cr_assert_leq(memory.available_bytes, memory.total_bytes);
}

Test(host_memory, the_peak_grows_with_what_is_touched_and_stays)
{
    uint64_t before_bytes = host_peak_rss_bytes();
    cr_assert_gt(before_bytes, 0);
    volatile char *memory = malloc(64 * MIB);
    for (uint64_t i = 0; i < 64 * MIB; i += 4096)
        memory[i] = 1;
    free((void *)memory);
    uint64_t after_bytes = host_peak_rss_bytes();
    cr_assert_geq(after_bytes, before_bytes + 48 * MIB);
    cr_assert_leq(after_bytes, before_bytes + 512 * MIB);
}
