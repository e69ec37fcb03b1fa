// What operations take on a simulated device (backends/sim), and reads on a simulated drive (io/io_sim.h), by
// the curves of a machine's profile: the cost model's rates, operation by operation.
//
// Alone, the operations of a pass take what cost_decode and cost_prefill say of the CPU's parts: the same
// curves, the same factors that runs have taught, the same time for each small operation of a row.
//
// Beside each other: the cost model slows the CPU by the share of the time in which both CPU and drive are
// busy, and the drive likewise. Here it is known when that is. An operation that begins while a read is in
// flight is slower by the profile's interference as a whole; an operation that begins before it is not. The
// drive reads slower while the clock is moved on by operations, and at its own rate while somebody waits for
// it. Operations take tens of microseconds in decode, reads of an expert a millisecond, so that the borders
// do not matter; in prefill an operation of many rows may be longer than a read, and then a read that begins
// or ends within it counts for all of the operation or for none of it. The cost model takes the lanes for
// mixed evenly; but whoever waits for the drive leaves it alone, so that passes that wait are shorter here:
// decode of 26B by 2 to 10% with interference of 0.8 and 0.7, and equal within 2% without any.
//
// GPUs of the profile are not used.
#ifndef LODE_SIM_TIMES_H
#define LODE_SIM_TIMES_H

#include "backends/sim/sim_device.h"
#include "io/io_sim.h"
#include "placement/cost.h"

struct sim_times;

struct sim_times_options {
    uint32_t threads; // 0: as many as the profile was made with
    enum lode_kv_format kv;
    uint64_t budget_bytes, ring_bytes; // as in struct residency_options
};

// workload and profile must outlive it. Fails where cost_open does.
int sim_times_open(struct sim_times **out, const struct workload *workload,
                   const struct machine_profile *profile, const struct sim_times_options *options,
                   struct lode_error *error);
void sim_times_close(struct sim_times *times); // NULL does nothing

// The drive of the profile that the cost model would read from; false where it has none, and then *out is one
// of 1 GB/s.
bool sim_times_drive(struct io_sim_drive *out, const struct sim_times *times);

// The share of its rate that the drive has while the CPU computes.
double sim_times_drive_share(const struct sim_times *times);

// Beside which drive the operations are; NULL: none.
void sim_times_beside(struct sim_times *times, struct io_sim *drive);

// A pass of so many tokens begins.
void sim_times_pass(struct sim_times *times, uint32_t n_tokens);

// `seconds` of struct sim_device_options; the user is the struct sim_times.
double sim_times_seconds(void *times, const struct sim_work *work);

// Where units have their homes under the budget; as long as the times.
const struct homes *sim_times_homes(const struct sim_times *times);

#endif
