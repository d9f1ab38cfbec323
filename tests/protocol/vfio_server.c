/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A vfio-user server with a device that does little (tests/unit/fake_pci_device.h): for tests of the transport that must
 * know exactly what the device does.
 *
 *	vfio_server SOCKET [trap]
 *
 * trap: no windows are offered. Ends with SIGTERM, or when its standard input does; then prints its status as a line of
 * JSON.
 */
#include <event2/event.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../unit/fake_pci_device.h"
#include "transport/vfio_user/server.h"

static struct fake_pci_device fake;
static struct vfio_user_server *server;
static struct vfio_user_status status;
static struct event *events[3];

static void run_completions(evutil_socket_t fd, short what, void *context)
{
	engine_run_completions(context);
}

static void destroyed(void *context)
{
	event_base_loopbreak(context);
}

static void end(evutil_socket_t fd, short what, void *context)
{
	vfio_user_server_read_status(server, &status);
	for (unsigned i = 1; i < 3; i++)
		event_del(events[i]);
	vfio_user_server_destroy(server, destroyed, context);
}

int main(int count, char **arguments)
{
	const struct engine_config config = { .sidecore_count = 1, .sidecores = { { .cpu = -1 } } };
	struct vfio_user_options options = { 0 };
	struct event_base *base = event_base_new();
	const char *error = "the engine does not start";
	struct engine *engine;

	if (count < 2) {
		fprintf(stderr, "vfio_server SOCKET [trap]\n");
		return 2;
	}
	options.path = arguments[1];
	options.trap_windows = count > 2 && !strcmp(arguments[2], "trap");
	if (!base || engine_create(&config, &engine) || engine_start(engine))
		goto fail;
	fake_pci_device_init(&fake, engine);
	if (vfio_user_server_create(&options, &fake.device, base, &server, &error))
		goto fail;
	events[0] = event_new(base, engine_completion_fd(engine), EV_READ | EV_PERSIST, run_completions, engine);
	events[1] = event_new(base, SIGTERM, EV_SIGNAL | EV_PERSIST, end, base);
	events[2] = event_new(base, 0, EV_READ, end, base);
	for (unsigned i = 0; i < 3; i++)
		event_add(events[i], NULL);
	event_base_dispatch(base);

	printf("{\"messages\":%llu,\"region_reads\":%llu,\"region_writes\":%llu,\"memory_messages\":%llu,"
	       "\"interrupt_messages\":%llu,\"posted\":%llu,\"errors\":%llu,\"refused\":%llu,\"connections\":%llu,"
	       "\"regions\":%u,\"memory\":%llu,\"last_error\":\"%s\",\"resets\":%u,\"pauses\":%u,\"resumes\":%u}\n",
	       (unsigned long long)status.messages, (unsigned long long)status.region_reads,
	       (unsigned long long)status.region_writes, (unsigned long long)status.memory_messages,
	       (unsigned long long)status.interrupt_messages, (unsigned long long)status.posted,
	       (unsigned long long)status.errors, (unsigned long long)status.refused,
	       (unsigned long long)status.connections, status.regions, (unsigned long long)status.memory,
	       status.last_error ? status.last_error : "", fake.resets, fake.pauses, fake.resumes);
	for (unsigned i = 0; i < 3; i++)
		event_free(events[i]);
	fake_pci_device_release(&fake);
	engine_stop(engine);
	engine_destroy(engine);
	event_base_free(base);
	return 0;

fail:
	fprintf(stderr, "vfio_server: %s\n", error);
	return 1;
}
