// Whether a machine runs on its battery, from captured trees of sys.
#include "profiles/power.h"
#include "tests/test_folder.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

static char root[TEST_FOLDER_SIZE];

static void make_root(void)
{
    test_folder_make(root, NULL);
}

static void remove_root(void)
{
    test_folder_remove(root);
}

TestSuite(power, .init = make_root, .fini = remove_root);

static void put(const char *supply, const char *file, const char *text)
{
    char path[256];
    static const char *const parts[] = {"sys", "sys/class", "sys/class/power_supply"};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        snprintf(path, sizeof path, "%s/%s", root, parts[i]);
        mkdir(path, 0700);
    }
    snprintf(path, sizeof path, "%s/sys/class/power_supply/%s", root, supply);
    mkdir(path, 0700);
    snprintf(path, sizeof path, "%s/sys/class/power_supply/%s/%s", root, supply, file);
    FILE *stream = fopen(path, "w");
    cr_assert(stream);
    fprintf(stream, "%s\n", text);
    fclose(stream);
}

static void put_battery(const char *name, const char *status)
{
    put(name, "type", "Battery");
    put(name, "status", status);
}

Test(power, a_machine_without_supplies_has_mains)
{
    cr_expect_not(power_on_battery(root));
    cr_expect_not(power_on_battery("/nonexistent"));
}

Test(power, a_laptop_without_its_charger_runs_on_the_battery)
{
    put_battery("BAT0", "Discharging");
    put("AC", "type", "Mains");
    put("AC", "online", "0");
    cr_expect(power_on_battery(root));
    put("AC", "online", "1");
    cr_expect_not(power_on_battery(root), "one that discharges while mains are there is held at its limit");
}

Test(power, a_battery_that_charges_or_is_full_is_not_in_use)
{
    put_battery("BAT0", "Charging");
    put_battery("BAT1", "Full");
    cr_expect_not(power_on_battery(root));
    put_battery("BAT1", "Discharging");
    cr_expect(power_on_battery(root));
}

Test(power, the_battery_of_a_mouse_says_nothing)
{
    put_battery("hidpp_battery_0", "Discharging");
    put("hidpp_battery_0", "scope", "Device");
    cr_expect_not(power_on_battery(root));
}
