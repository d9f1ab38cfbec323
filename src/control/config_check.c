/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What a schema cannot say: values that must fit each other, the machine, and the limits of the devices.
 *
 * Each check looks at one thing, in the order of the file, and the first that fails is the error: one sentence with the
 * line of the value at fault and the remedy. Defaults are filled in on the way, so that the rest of the program finds
 * every value in its place.
 */
#include "control/config_check.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <grp.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/clock.h"
#include "engine/scheduler.h"
#include "ring/virtqueue.h"

#define NAME_MAX_BYTES 63U
#define QUEUE_SIZE_MIN 16U
/* Pairs of I/O queues that an NVMe controller offers: drivers take one for each CPU. */
#define NVME_QUEUES_DEFAULT 16U
/* The smallest MTU that IPv4 works with (RFC 791), and the largest that virtio's 16 bits and Linux allow. */
#define MTU_MIN 68U

int config_absolute(char **path, const char *folder)
{
	char *absolute;

	if ((*path)[0] == '/')
		return 0;
	if (asprintf(&absolute, "%s/%s", strcmp(folder, "/") ? folder : "", *path) < 0)
		return -ENOMEM;
	free(*path);
	*path = absolute;
	return 0;
}

int config_check_duration(struct config_document *document, struct config_place place, const char *text,
			  uint64_t most_ns, uint64_t *nanoseconds)
{
	if (config_parse_duration(text, nanoseconds))
		return FAIL(place, "\"%.60s\" is not a duration; write a number with a unit: 50us, 1ms, 2s", text);
	if (*nanoseconds > most_ns)
		return FAIL(place, "\"%.60s\" is too long; at most %llus make sense here", text,
			    (unsigned long long)(most_ns / NANOSECONDS_PER_SECOND));
	return 0;
}

int config_check_size(struct config_document *document, struct config_place place, const char *text, uint64_t *size)
{
	if (config_parse_size(text, size) || *size > INT64_MAX)
		return FAIL(place, "\"%.60s\" is not a size; write bytes, or a number with K, M, G or T: 512M, 10G",
			    text);
	return 0;
}

int config_check_name(struct config_document *document, const char *section, unsigned index, const char *name)
{
	size_t length = strlen(name), good = 0;

	while (isalnum((unsigned char)name[good]) || (name[good] && strchr("-_.", name[good])))
		good++;
	if (!length || length > NAME_MAX_BYTES || good < length)
		return FAIL(PLACE(section, (int)index, "name"),
			    "\"%.60s\" is no good name; use 1 to %u letters, digits, dots, dashes and underscores",
			    name, NAME_MAX_BYTES);
	return 0;
}

static int check_top(struct config *config, struct config_document *document, const char *folder)
{
	const struct group *group;
	struct config_place place = PLACE("control", CONFIG_NO_INDEX);

	if (config->control && !strcmp(config->control, "none")) {
		free(config->control);
		config->control = NULL;
	} else if (config->control) {
		if (!config->control[0] || config_absolute(&config->control, folder))
			return FAIL(place, "\"control\" is empty; write a path, or none");
		if (strlen(config->control) >= sizeof(((struct sockaddr_un *)NULL)->sun_path))
			return FAIL(place, "socket path is %zu bytes long and 107 fit; use a shorter folder",
				    strlen(config->control));
	} else if (config_default_control_path(false, &config->control)) {
		return FAIL(place,
			    "there is no place for the control socket (/run/sidecore is not ours, XDG_RUNTIME_DIR is "
			    "not set); add \"control: PATH\", or \"control: none\"");
	}
	config->group_id = -1;
	if (config->group) {
		group = getgrnam(config->group);
		if (!group)
			return FAIL(PLACE("group", CONFIG_NO_INDEX),
				    "unknown group \"%.60s\"; create it or name another", config->group);
		config->group_id = (int)group->gr_gid;
	}
	if (config->busy_poll) {
		if (config_check_duration(document, PLACE("busy_poll", CONFIG_NO_INDEX), config->busy_poll,
					  10 * NANOSECONDS_PER_SECOND, &config->busy_poll_ns))
			return -EINVAL;
		/* To the engine 0 means "adaptive"; to a person it means not to spin at all. */
		config->busy_poll_ns = max(config->busy_poll_ns, (uint64_t)1);
	}
	if (config->scheduler && !scheduler_find(config->scheduler))
		return FAIL(PLACE("scheduler", CONFIG_NO_INDEX),
			    "unknown scheduler \"%.60s\"; leave it out for the default", config->scheduler);
	return 0;
}

static void describe_cpus(const cpu_set_t *allowed, char *text, size_t size)
{
	size_t used = 0;

	text[0] = '\0';
	for (int cpu = 0; cpu < CPU_SETSIZE && used < size; cpu++) {
		int first = cpu;

		if (!CPU_ISSET(cpu, allowed))
			continue;
		while (cpu + 1 < CPU_SETSIZE && CPU_ISSET(cpu + 1, allowed))
			cpu++;
		used += (size_t)snprintf(text + used, size - used, "%s%d", used ? "," : "", first);
		if (cpu > first && used < size)
			used += (size_t)snprintf(text + used, size - used, "-%d", cpu);
	}
}

static int check_sidecores(struct config *config, struct config_document *document)
{
	cpu_set_t allowed, taken;
	char words[256];

	if (!config->sidecores_count) {
		/* Freed by libcyaml together with the rest, and so allocated as libcyaml does. */
		free(config->sidecores);
		config->sidecores = calloc(1, sizeof(*config->sidecores));
		if (!config->sidecores)
			return -ENOMEM;
		config->sidecores_count = 1;
	}
	if (sched_getaffinity(0, sizeof(allowed), &allowed))
		return -errno;
	CPU_ZERO(&taken);
	describe_cpus(&allowed, words, sizeof(words));
	for (unsigned i = 0; i < config->sidecores_count; i++) {
		struct config_sidecore *sidecore = &config->sidecores[i];
		struct config_place place = PLACE("sidecores", (int)i, "cpu");

		sidecore->cpu = sidecore->cpu_given ? *sidecore->cpu_given : -1;
		if (sidecore->cpu < 0)
			continue;
		if (sidecore->cpu >= CPU_SETSIZE || !CPU_ISSET(sidecore->cpu, &allowed))
			return FAIL(place, "CPU %d is not allowed for this process; use one of %s", sidecore->cpu,
				    words);
		if (CPU_ISSET(sidecore->cpu, &taken))
			return FAIL(place, "CPU %d already has a sidecore; use another of %s", sidecore->cpu, words);
		CPU_SET(sidecore->cpu, &taken);
	}
	if (config->sidecores_count > (unsigned)CPU_COUNT(&allowed))
		return FAIL(PLACE("sidecores", CONFIG_NO_INDEX),
			    "%u sidecores need as many CPUs, and %d are allowed (%s); "
			    "remove some",
			    config->sidecores_count, CPU_COUNT(&allowed), words);
	return 0;
}

/* What interfaces and disks have in common. */
struct endpoint {
	const char *section;
	unsigned index;
	const char *name;
	char **socket;
	const unsigned *sidecore_given;
	const char *memory_max;
	uint16_t queue_size, queue_size_max;
	int *sidecore;
	uint64_t *memory_max_bytes;
};

static int check_socket_unique(const struct config *config, struct config_document *document,
			       const struct endpoint *endpoint)
{
	const char *owner = NULL, *socket = *endpoint->socket;
	bool disks = !strcmp(endpoint->section, "disks");

	if (config->control && !strcmp(config->control, socket))
		owner = "the control socket";
	for (unsigned i = 0; !owner && i < (disks ? config->interfaces_count : endpoint->index); i++) {
		if (!strcmp(config->interfaces[i].socket, socket))
			owner = config->interfaces[i].name;
	}
	for (unsigned i = 0; !owner && disks && i < endpoint->index; i++) {
		if (config->disks[i].socket && !strcmp(config->disks[i].socket, socket))
			owner = config->disks[i].name;
	}
	if (owner)
		return FAIL(PLACE(endpoint->section, (int)endpoint->index, "socket"),
			    "socket \"%s\" already belongs to %s; give %s one of its own", socket, owner,
			    endpoint->name);
	return 0;
}

static int check_endpoint(struct config *config, struct config_document *document, const char *folder,
			  const struct endpoint *endpoint)
{
	int index = (int)endpoint->index;
	struct config_place place = PLACE(endpoint->section, index, "socket");

	if (!*endpoint->socket)
		return FAIL(PLACE(endpoint->section, index), "disk has no \"socket\"; add it");
	if (!(*endpoint->socket)[0])
		return FAIL(place, "\"socket\" is empty; write a path");
	if (config_absolute(endpoint->socket, folder))
		return -ENOMEM;
	if (strlen(*endpoint->socket) >= sizeof(((struct sockaddr_un *)NULL)->sun_path))
		return FAIL(place, "socket path is %zu bytes long and 107 fit; use a shorter folder",
			    strlen(*endpoint->socket));
	if (check_socket_unique(config, document, endpoint))
		return -EINVAL;
	*endpoint->sidecore = -1;
	if (endpoint->sidecore_given) {
		if (*endpoint->sidecore_given >= config->sidecores_count)
			return FAIL(PLACE(endpoint->section, index, "sidecore"),
				    "there is no sidecore %u; they are counted from 0, and there %s %u",
				    *endpoint->sidecore_given, config->sidecores_count == 1 ? "is" : "are",
				    config->sidecores_count);
		*endpoint->sidecore = (int)*endpoint->sidecore_given;
	}
	if (endpoint->memory_max && config_check_size(document, PLACE(endpoint->section, index, "memory_max"),
					       endpoint->memory_max, endpoint->memory_max_bytes))
		return -EINVAL;
	if (endpoint->queue_size &&
	    (endpoint->queue_size & (endpoint->queue_size - 1) || endpoint->queue_size < QUEUE_SIZE_MIN ||
	     endpoint->queue_size > endpoint->queue_size_max))
		return FAIL(PLACE(endpoint->section, index, "queue_size"),
			    "queue_size is %u; use a power of two from %u to %u", endpoint->queue_size, QUEUE_SIZE_MIN,
			    endpoint->queue_size_max);
	return 0;
}

static int check_vlans(const struct config_interface *interface, struct config_document *document, unsigned index)
{
	int i = (int)index;
	bool access = config_document_has(document, PLACE("interfaces", i, "vlan"));
	bool trunk = config_document_has(document, PLACE("interfaces", i, "trunk"));
	bool native = config_document_has(document, PLACE("interfaces", i, "native"));

	if (access && trunk)
		return FAIL(PLACE("interfaces", i, "trunk"),
			    "a port is either in one \"vlan\" or a \"trunk\"; remove one of the two");
	if (native && !trunk)
		return FAIL(PLACE("interfaces", i, "native"),
			    "\"native\" belongs to a trunk; add \"trunk\", or use \"vlan\" instead");
	if (trunk && !interface->trunk_count)
		return FAIL(PLACE("interfaces", i, "trunk"), "the trunk is empty; list its VLANs, or remove it");
	if (access && (interface->vlan < 1 || interface->vlan > CONFIG_VLAN_MAX))
		return FAIL(PLACE("interfaces", i, "vlan"), "VLAN %u does not exist; use 1 to %u", interface->vlan,
			    CONFIG_VLAN_MAX);
	if (native && (interface->native < 1 || interface->native > CONFIG_VLAN_MAX))
		return FAIL(PLACE("interfaces", i, "native"), "VLAN %u does not exist; use 1 to %u", interface->native,
			    CONFIG_VLAN_MAX);
	for (unsigned j = 0; j < interface->trunk_count; j++) {
		if (interface->trunk[j] < 1 || interface->trunk[j] > CONFIG_VLAN_MAX)
			return FAIL(PLACE("interfaces", i, "trunk"), "VLAN %u does not exist; use 1 to %u",
				    interface->trunk[j], CONFIG_VLAN_MAX);
	}
	return 0;
}

static int check_addresses(struct config *config, struct config_document *document, unsigned index)
{
	struct config_interface *interface = &config->interfaces[index], *other;
	int i = (int)index;

	if (!interface->mac)
		config_derive_mac(interface->name, interface->address);
	else if (config_parse_mac(interface->mac, interface->address))
		return FAIL(
			PLACE("interfaces", i, "mac"),
			"\"%.60s\" is not the address of a network card; write six pairs of hexadecimal digits, the "
			"first even: 52:54:00:00:00:01",
			interface->mac);
	for (other = config->interfaces; other < interface; other++) {
		if (other->network_index == interface->network_index && !memcmp(other->address, interface->address, 6))
			return FAIL(
				PLACE("interfaces", i, "mac"),
				"%s and %s have the same MAC address in network %s; give one of them another \"mac\"",
				other->name, interface->name, interface->network);
	}
	for (unsigned j = 0; j < interface->ipv4_count; j++) {
		struct in_addr address;

		if (inet_pton(AF_INET, interface->ipv4[j], &address) != 1)
			return FAIL(PLACE("interfaces", i, "ipv4"), "\"%.60s\" is not an IPv4 address; write 10.0.2.15",
				    interface->ipv4[j]);
		interface->ipv4_addresses[j] = address.s_addr;
	}
	return 0;
}

static int find_network(struct config *config, struct config_document *document, unsigned index)
{
	struct config_interface *interface = &config->interfaces[index];
	struct config_place place = PLACE("interfaces", (int)index, "network");
	char known[256] = "";
	size_t used = 0;

	for (unsigned i = 0; i < config->networks_count; i++) {
		if (!strcmp(config->networks[i].name, interface->network)) {
			interface->network_index = i;
			return 0;
		}
		if (used < sizeof(known))
			used += (size_t)snprintf(known + used, sizeof(known) - used, "%s%s", i ? ", " : "",
						 config->networks[i].name);
	}
	if (!config->networks_count)
		return FAIL(place, "unknown network \"%.60s\"; add it to \"networks\"", interface->network);
	return FAIL(place, "unknown network \"%.60s\"; there are: %s", interface->network, known);
}

static int check_interface(struct config *config, struct config_document *document, const char *folder, unsigned index)
{
	struct config_interface *interface = &config->interfaces[index];
	struct endpoint endpoint = {
		.section = "interfaces",
		.index = index,
		.name = interface->name,
		.socket = &interface->socket,
		.sidecore_given = interface->sidecore_given,
		.memory_max = interface->memory_max,
		.queue_size = interface->queue_size,
		.queue_size_max = VIRTQUEUE_SIZE_MAX,
		.sidecore = &interface->sidecore,
		.memory_max_bytes = &interface->memory_max_bytes,
	};
	int i = (int)index;

	if (config_check_name(document, "interfaces", index, interface->name) ||
	    config_check_nic_model(config, document, index) || check_endpoint(config, document, folder, &endpoint))
		return -EINVAL;
	for (unsigned j = 0; j < index; j++) {
		if (!strcmp(config->interfaces[j].name, interface->name))
			return FAIL(PLACE("interfaces", i, "name"),
				    "there already is an interface \"%s\"; names must differ", interface->name);
	}
	if (find_network(config, document, index) || check_vlans(interface, document, index) ||
	    check_addresses(config, document, index))
		return -EINVAL;
	if (interface->model == CONFIG_NIC_E1000 && !config_document_has(document, PLACE("interfaces", i, "doorbells")))
		interface->doorbells = CONFIG_DOORBELLS_POSTED;
	if (!config_document_has(document, PLACE("interfaces", i, "queue_pairs")))
		interface->queue_pairs = 1;
	if (interface->queue_pairs < 1 || interface->queue_pairs > CONFIG_QUEUE_PAIRS_MAX)
		return FAIL(PLACE("interfaces", i, "queue_pairs"), "queue_pairs is %u; use 1 to %u",
			    interface->queue_pairs, CONFIG_QUEUE_PAIRS_MAX);
	if (config_document_has(document, PLACE("interfaces", i, "mtu")) && interface->mtu < MTU_MIN)
		return FAIL(PLACE("interfaces", i, "mtu"), "mtu is %u; use %u to 65535", interface->mtu, MTU_MIN);
	return 0;
}

/* Of a disk that is a device of its own: its socket and its queues. */
static int check_disk_device(struct config *config, struct config_document *document, const char *folder, unsigned index)
{
	struct config_disk *disk = &config->disks[index];
	bool nvme = disk->model == CONFIG_DISK_NVME;
	struct endpoint endpoint = {
		.section = "disks",
		.index = index,
		.name = disk->name,
		.socket = &disk->socket,
		.sidecore_given = disk->sidecore_given,
		.memory_max = disk->memory_max,
		.queue_size = disk->queue_size,
		.queue_size_max = nvme ? CONFIG_NVME_QUEUE_SIZE_MAX : VIRTQUEUE_SIZE_MAX,
		.sidecore = &disk->sidecore,
		.memory_max_bytes = &disk->memory_max_bytes,
	};
	unsigned most = nvme ? CONFIG_NVME_QUEUES_MAX : CONFIG_DISK_QUEUES_MAX;
	struct config_place queues = PLACE("disks", (int)index, "queues");

	if (check_endpoint(config, document, folder, &endpoint))
		return -EINVAL;
	if (!config_document_has(document, queues))
		disk->queues = nvme ? NVME_QUEUES_DEFAULT : 1;
	if (disk->queues < 1 || disk->queues > most)
		return FAIL(queues, "queues is %u; use 1 to %u", disk->queues, most);
	return 0;
}

static int check_disk(struct config *config, struct config_document *document, const char *folder, unsigned index)
{
	struct config_disk *disk = &config->disks[index];
	int i = (int)index;

	if (config_check_name(document, "disks", index, disk->name) ||
	    config_check_disk_model(config, document, index))
		return -EINVAL;
	if (!disk->controller && check_disk_device(config, document, folder, index))
		return -EINVAL;
	for (unsigned j = 0; j < index; j++) {
		if (!strcmp(config->disks[j].name, disk->name))
			return FAIL(PLACE("disks", i, "name"), "there already is a disk \"%s\"; names must differ",
				    disk->name);
	}
	if (!config_document_has(document, PLACE("disks", i, "block_size")))
		disk->block_size = 512;
	if (disk->block_size != 512 && disk->block_size != 4096)
		return FAIL(PLACE("disks", i, "block_size"), "block_size is %u; use 512 or 4096", disk->block_size);
	if (disk->serial && strlen(disk->serial) > CONFIG_SERIAL_MAX)
		return FAIL(PLACE("disks", i, "serial"), "serial is %zu bytes long; at most %u fit (virtio-blk get-id)",
			    strlen(disk->serial), CONFIG_SERIAL_MAX);
	return config_check_backend(config, document, folder, index);
}

int config_check(struct config *config, struct config_document *document, const char *folder)
{
	int error = check_top(config, document, folder);

	if (!error)
		error = check_sidecores(config, document);
	for (unsigned i = 0; !error && i < config->networks_count; i++)
		error = config_check_network(config, document, folder, i);
	for (unsigned i = 0; !error && i < config->interfaces_count; i++)
		error = check_interface(config, document, folder, i);
	for (unsigned i = 0; !error && i < config->disks_count; i++)
		error = check_disk(config, document, folder, i);
	if (!error && !config->interfaces_count && !config->disks_count)
		error = FAIL(PLACE("interfaces", CONFIG_NO_INDEX),
			     "there is nothing to serve; add \"interfaces\" or \"disks\"");
	return error;
}
