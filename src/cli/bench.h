/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef CLI_BENCH_H
#define CLI_BENCH_H

int cli_bench(int argc, char **argv);

#endif
