/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Subcommands, each in a file of its own name. They get "sidecore NAME" as argv[0] and return the exit status: 0 for
 * success, 1 when the work failed, 2 when the command line was not understood.
 */
#ifndef CLI_COMMANDS_H
#define CLI_COMMANDS_H

#define EXIT_USAGE 2

int cli_bench(int argc, char **argv);
int cli_restart(int argc, char **argv);
int cli_run(int argc, char **argv);
int cli_serve(int argc, char **argv);
int cli_status(int argc, char **argv);

#endif
