// Virtual time, for what is simulated instead of run.
//
// Whoever simulates something that takes time moves it on: a device by what an operation takes, a drive up to
// the read that is waited for. One thread has the clock and all who read it.
#ifndef LODE_SIM_CLOCK_H
#define LODE_SIM_CLOCK_H

#include <stdint.h>

// Where a clock begins: 0 stands for no time at all in places.
#define SIM_CLOCK_START_NS ((uint64_t)1000000000)

struct sim_clock {
    uint64_t now_ns;
};

#endif
