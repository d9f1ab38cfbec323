/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * sidecore serve: the daemon in the foreground.
 *
 * The process is prepared (limits, signals), the configuration read, the server built, and then the event loop has
 * the control thread until the server has stopped. SIGTERM and SIGINT begin the stop; a second one ends at once.
 * SIGHUP does nothing: the configuration is read once, and there is no log file to open again.
 *
 * SIGUSR2, or "restart" on the control socket, is a restart in place: the server is stopped, but clients of emulated
 * devices are left to the program that this process then becomes (control/handover.h). When a service manager that
 * keeps files ends us by SIGTERM, they are left with it, for whatever it starts next. A start that fails while such
 * clients wait for it is tried again (cli/serve_again.h).
 */
#include <errno.h>
#include <event2/event.h>
#include <getopt.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/log.h"
#include "cli/commands.h"
#include "cli/serve_again.h"
#include "cli/serve_restart.h"
#include "control/config.h"
#include "control/handover.h"
#include "control/notify.h"
#include "control/server.h"

/* File descriptors: each guest brings its memory's, two for each queue, and its connection. */
#define DESCRIPTORS_WANTED 65536U

/* For the answer to "restart" to leave. */
#define RESTART_MICROSECONDS 20000

static const char usage[] =
	"Usage: sidecore serve [OPTION]... CONFIGURATION\n"
	"\n"
	"Serves the network cards and disks that the configuration file describes, in the foreground, until it is\n"
	"told to stop by SIGTERM or SIGINT (Ctrl-C). The format is described in sidecore.yaml(5).\n"
	"\n"
	"  -c, --check     only check the configuration\n"
	"  -v, --verbose   log connections and stages in detail\n"
	"  -h, --help      this text\n";

struct serving {
	struct event_base *base;
	struct server *server;
	struct event *signals[3];
	struct event *restart_due;
	struct successor successor;
	struct handover *left; /* NULL: no client outlives us */
	bool stopping;
	bool restarting; /* execute the successor in the end */
};

static void stopped(void *context)
{
	struct serving *serving = context;

	event_base_loopbreak(serving->base);
}

static void asked_to_stop(evutil_socket_t signal_number, short events, void *context)
{
	struct serving *serving = context;

	if (serving->restarting) {
		log_info("stopping instead of restarting");
		serving->restarting = false;
		return;
	}
	if (serving->stopping) {
		log_warning("stopped at once by a second signal");
		_exit(128 + (int)signal_number);
	}
	serving->stopping = true;
	log_info("stopping");
	notify_service_manager("STOPPING=1\nSTATUS=stopping");
	if (signal_number == SIGTERM && !serving->left && handover_store_offered())
		serving->left = handover_create(false);
	server_hand_over(serving->server, serving->left, stopped, serving);
}

static void begin_restart(evutil_socket_t unused, short events, void *context)
{
	struct serving *serving = context;

	char obstacle[256];

	if (serving->stopping)
		return;
	/* Messages were served since it was asked for. */
	if (server_restart_obstacle(serving->server, obstacle, sizeof(obstacle))) {
		log_warning("not restarted: %s", obstacle);
		handover_release(serving->left);
		serving->left = NULL;
		return;
	}
	serving->stopping = serving->restarting = true;
	log_info("restarting");
	notify_service_manager("STATUS=restarting");
	server_hand_over(serving->server, serving->left, stopped, serving);
}

/* Asked for by the control socket: the answer leaves first. */
static int restart(void *context, const char **reason)
{
	struct serving *serving = context;
	int error;

	*reason = "it is about to end";
	if (serving->stopping || serving->left)
		return -EBUSY;
	error = successor_check(&serving->successor, reason);
	if (error)
		return error;
	serving->left = handover_create(true);
	*reason = "out of memory";
	if (!serving->left)
		return -ENOMEM;
	event_add(serving->restart_due, &(struct timeval){ .tv_usec = RESTART_MICROSECONDS });
	return 0;
}

static void asked_to_restart(evutil_socket_t signal_number, short events, void *context)
{
	struct serving *serving = context;
	const char *reason;
	char obstacle[256];

	/* The obstacles are a running server's. */
	if (serving->stopping)
		log_warning("not restarted: it is about to end");
	else if (server_restart_obstacle(serving->server, obstacle, sizeof(obstacle)))
		log_warning("not restarted: %s", obstacle);
	else if (restart(serving, &reason))
		log_warning("not restarted: %s", reason);
}

static int watch_signals(struct serving *serving)
{
	static const struct {
		int number;
		event_callback_fn called;
	} signals[] = { { SIGTERM, asked_to_stop }, { SIGINT, asked_to_stop }, { SIGUSR2, asked_to_restart } };

	for (unsigned i = 0; i < array_size(signals); i++) {
		serving->signals[i] = evsignal_new(serving->base, signals[i].number, signals[i].called, serving);
		if (!serving->signals[i] || event_add(serving->signals[i], NULL))
			return -ENOMEM;
	}
	serving->restart_due = event_new(serving->base, -1, 0, begin_restart, serving);
	return serving->restart_due ? 0 : -ENOMEM;
}

/*
 * Signals wait while nobody handles them: the default action would end us, and with us the clients that the daemon before
 * has left, or that we leave. The mask outlives execv(), and so does what waits.
 * @ends: those that end the daemon, too
 */
static void hold_signals(bool hold, bool ends)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	if (ends) {
		sigaddset(&set, SIGTERM);
		sigaddset(&set, SIGINT);
	}
	pthread_sigmask(hold ? SIG_BLOCK : SIG_UNBLOCK, &set, NULL);
}

static void prepare_process(void)
{
	struct rlimit limit;

	/* A client that goes away is an error of its write, not the end of the daemon. */
	signal(SIGPIPE, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	signal(SIGXFSZ, SIG_IGN); /* a file grown past RLIMIT_FSIZE: EFBIG is enough */
	if (getrlimit(RLIMIT_NOFILE, &limit) || limit.rlim_cur >= DESCRIPTORS_WANTED)
		return;
	/* Root may raise the hard limit too; others get what they are allowed. */
	limit.rlim_cur = DESCRIPTORS_WANTED;
	if (limit.rlim_max >= DESCRIPTORS_WANTED ||
	    setrlimit(RLIMIT_NOFILE, &(struct rlimit){ DESCRIPTORS_WANTED, DESCRIPTORS_WANTED })) {
		limit.rlim_cur = min(limit.rlim_cur, limit.rlim_max);
		if (setrlimit(RLIMIT_NOFILE, &limit))
			log_warning("cannot raise the limit of open files: %s", strerror(errno));
	}
}

static void print_ready(const struct config *config)
{
	for (unsigned i = 0; i < config->interfaces_count; i++) {
		const struct config_interface *interface = &config->interfaces[i];

		printf("interface %s on network %s: %s%s\n", interface->name, interface->network, interface->socket,
		       interface->mode == CONFIG_MODE_CLIENT ? " (client)" : "");
	}
	for (unsigned i = 0; i < config->disks_count; i++) {
		const struct config_disk *disk = &config->disks[i];

		if (disk->controller)
			printf("disk %s: a namespace of %s\n", disk->name, disk->controller);
		else
			printf("disk %s: %s%s\n", disk->name, disk->socket,
			       disk->mode == CONFIG_MODE_CLIENT ? " (client)" : "");
	}
	if (config->control)
		printf("control: %s\n", config->control);
	puts("ready");
	fflush(stdout);
}

static void run(const struct config *config, struct serving *serving)
{
	server_on_restart(serving->server, restart, serving);
	if (!watch_signals(serving)) {
		print_ready(config);
		notify_service_manager("READY=1\nSTATUS=serving");
	} else {
		log_error("cannot watch signals: out of memory");
		serving->stopping = true;
		server_stop(serving->server, stopped, serving);
	}
	hold_signals(false, true);
	event_base_dispatch(serving->base);
	/* What has been caught until now still counts, and what comes from now on waits for the next daemon. */
	hold_signals(true, true);
	event_base_loop(serving->base, EVLOOP_NONBLOCK);
	server_destroy(serving->server);
}

/* The server has stopped. Clients that were left go to the successor, or to the service manager, or are let go. */
static int pass_on(struct serving *serving, int result)
{
	struct successor *successor = &serving->successor;

	if (!serving->left)
		return result;
	handover_await_store(serving->left);
	if (serving->restarting) {
		result = handover_execute(serving->left, successor->path, successor->arguments);
		log_error("restart: %s: %s", successor->path, strerror(-result));
		serve_again(serving->left, successor);
	}
	handover_release(serving->left);
	return result;
}

static int load(const char *path, struct config **config)
{
	char *error = NULL;
	int result = config_load(path, config, &error);

	/* As compilers do, without a prefix, so that editors can jump to the line. */
	if (result)
		fprintf(stderr, "%s\n", error ? error : "out of memory");
	free(error);
	return result;
}

/*
 * From the configuration to the end of service. Return: negative: the start has failed, and @received is as it was;
 * else it is released.
 */
static int load_and_run(const char *path, struct serving *serving, struct handover *received)
{
	struct config *config = NULL;
	char *error = NULL;
	int result = load(path, &config);

	if (result)
		return result;
	result = server_create(config, serving->base, received, &serving->server, &error);
	if (!result) {
		handover_release(received);
		run(config, serving);
	} else {
		log_error("%s", error ? error : strerror(-result));
	}
	free(error);
	config_free(config);
	return result;
}

static void release(struct serving *serving)
{
	for (unsigned i = 0; i < array_size(serving->signals); i++) {
		if (serving->signals[i])
			event_free(serving->signals[i]);
	}
	if (serving->restart_due)
		event_free(serving->restart_due);
	event_base_free(serving->base);
}

static int serve(const char *path, int argc, char **argv)
{
	struct serving serving = { .base = event_base_new() };
	struct handover *received;
	int result;

	if (!serving.base) {
		log_error("cannot make an event loop: %s", strerror(errno));
		return EXIT_FAILURE;
	}
	successor_note(&serving.successor, argc, argv);
	/* A start with nobody to lose can be interrupted. */
	hold_signals(true, getenv("LISTEN_FDS"));
	if (handover_receive(&received)) {
		log_error("out of memory");
		event_base_free(serving.base);
		return EXIT_FAILURE;
	}
	result = load_and_run(path, &serving, received);
	hold_signals(true, true);
	release(&serving);
	if (result) {
		serve_again(received, &serving.successor);
		handover_release(received);
	}
	return pass_on(&serving, result) ? EXIT_FAILURE : EXIT_SUCCESS;
}

static const char *plural(unsigned count)
{
	return count == 1 ? "" : "s";
}

static int check(const char *path)
{
	struct config *config;

	if (load(path, &config))
		return EXIT_FAILURE;
	printf("%s: good: %u network%s, %u interface%s, %u disk%s, %u sidecore%s\n", path, config->networks_count,
	       plural(config->networks_count), config->interfaces_count, plural(config->interfaces_count),
	       config->disks_count, plural(config->disks_count), config->sidecores_count,
	       plural(config->sidecores_count));
	config_free(config);
	return EXIT_SUCCESS;
}

int cli_serve(int argc, char **argv)
{
	static const struct option options[] = {
		{ "check", no_argument, NULL, 'c' },
		{ "verbose", no_argument, NULL, 'v' },
		{ "help", no_argument, NULL, 'h' },
		{ 0 },
	};
	bool only_check = false;
	int option;

	while ((option = getopt_long(argc, argv, "cvh", options, NULL)) != -1) {
		switch (option) {
		case 'c':
			only_check = true;
			break;
		case 'v':
			log_set_level(LOG_LEVEL_DEBUG);
			break;
		case 'h':
			fputs(usage, stdout);
			return 0;
		default:
			fputs("sidecore serve --help lists the options\n", stderr);
			return EXIT_USAGE;
		}
	}
	if (argc - optind != 1) {
		fprintf(stderr, "sidecore serve: name one configuration file, not %d; see sidecore.yaml(5)\n",
			argc - optind);
		return EXIT_USAGE;
	}
	if (only_check)
		return check(argv[optind]);
	prepare_process();
	return serve(argv[optind], argc, argv);
}
