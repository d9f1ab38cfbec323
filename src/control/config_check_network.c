/* SPDX-License-Identifier: BSD-3-Clause */
/* What a schema cannot say of networks and their uplinks. */
#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <net/if.h>
#include <regex.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#include "base/checked.h"
#include "base/clock.h"
#include "control/config_check.h"
#include "net/frame.h"
#include "net/uplink.h"

#define TAP_QUEUES_MAX 8U

static const char *const type_words[] = {
	[UPLINK_NONE] = "none",	    [UPLINK_SLIRP] = "slirp", [UPLINK_TAP] = "tap",
	[UPLINK_STREAM] = "stream", [UPLINK_NULL] = "null",   [UPLINK_SOURCE] = "source",
};

/* A key that has no meaning for this type of uplink is a misunderstanding, not to be ignored. */
static int check_keys(const struct config_uplink *uplink, struct config_document *document, unsigned index)
{
	static const struct {
		const char *key;
		enum uplink_type type;
	} keys[] = {
		{ "interface", UPLINK_TAP }, { "queues", UPLINK_TAP },	   { "address", UPLINK_STREAM },
		{ "listen", UPLINK_STREAM }, { "net4", UPLINK_SLIRP },	   { "restricted", UPLINK_SLIRP },
		{ "ipv6", UPLINK_SLIRP },    { "forwards", UPLINK_SLIRP }, { "size", UPLINK_SOURCE },
	};

	for (unsigned i = 0; i < array_size(keys); i++) {
		struct config_place place = PLACE("networks", (int)index, "uplink", keys[i].key);

		if (config_document_has(document, place) && (enum uplink_type)uplink->type != keys[i].type)
			return FAIL(place,
				    "\"%s\" belongs to an uplink of type %s, and this is %s; remove it, or change "
				    "the type",
				    keys[i].key, type_words[keys[i].type], type_words[uplink->type]);
	}
	return 0;
}

static int check_tap(struct config_uplink *uplink, struct config_document *document, unsigned index)
{
	struct config_place interface = PLACE("networks", (int)index, "uplink", "interface");
	struct config_place queues = PLACE("networks", (int)index, "uplink", "queues");

	if (!uplink->interface || !uplink->interface[0])
		return FAIL(interface, "uplink has no \"interface\"; name the tap device, such as tap0");
	if (strlen(uplink->interface) >= IFNAMSIZ || strpbrk(uplink->interface, "/: \t\n%"))
		return FAIL(interface, "\"%.60s\" is no name of a network device; use up to %u letters and digits",
			    uplink->interface, (unsigned)IFNAMSIZ - 1);
	if (!config_document_has(document, queues))
		uplink->queues = 1;
	if (uplink->queues < 1 || uplink->queues > TAP_QUEUES_MAX)
		return FAIL(queues, "queues is %u; use 1 to %u", uplink->queues, TAP_QUEUES_MAX);
	return 0;
}

static int check_stream(struct config_uplink *uplink, struct config_document *document, const char *folder,
			unsigned index)
{
	struct config_place place = PLACE("networks", (int)index, "uplink", "address");
	char *address = uplink->address, *colon;
	char *end;
	unsigned long port;

	if (!address || !address[0])
		return FAIL(place, "uplink has no \"address\"; add the path of a unix socket, or host:port");
	/* A path has a slash or no colon; it is made absolute, so that a slash tells from here on. */
	colon = strrchr(address, ':');
	if (strchr(address, '/') || !colon) {
		if (config_absolute(&uplink->address, folder))
			return -ENOMEM;
		if (strlen(uplink->address) >= sizeof(((struct sockaddr_un *)NULL)->sun_path))
			return FAIL(place, "socket path is %zu bytes long and 107 fit; use a shorter folder",
				    strlen(uplink->address));
		return 0;
	}
	port = strtoul(colon + 1, &end, 10);
	if (colon == address || !isdigit((unsigned char)colon[1]) || *end || port < 1 || port > UINT16_MAX)
		return FAIL(place, "\"%.60s\" is no address; write host:port with a port from 1 to 65535, or a path",
			    address);
	return 0;
}

static int check_net4(const struct config_uplink *uplink, struct config_document *document, unsigned index)
{
	struct config_place place = PLACE("networks", (int)index, "uplink", "net4");
	char address[INET_ADDRSTRLEN];
	unsigned prefix;
	struct in_addr parsed;
	char rest;

	if (!uplink->net4)
		return 0;
	/* The host is .2 and DHCP starts at .15: 27 bits leave room for both. */
	if (sscanf(uplink->net4, "%15[0-9.]/%2u%c", address, &prefix, &rest) != 2 ||
	    inet_pton(AF_INET, address, &parsed) != 1 || prefix < 8 || prefix > 27)
		return FAIL(place, "\"%.60s\" is no network; write one with 8 to 27 bits, such as 10.0.2.0/24",
			    uplink->net4);
	if (ntohl(parsed.s_addr) & (UINT32_MAX >> prefix))
		return FAIL(place, "\"%.60s\" has bits set after the first %u; write the network's own address",
			    uplink->net4, prefix);
	return 0;
}

static int check_forwards(const struct config_uplink *uplink, struct config_document *document, unsigned index)
{
	struct config_place place = PLACE("networks", (int)index, "uplink", "forwards");
	regex_t form;
	int error = 0;

	if (!uplink->forwards_count)
		return 0;
	if (regcomp(&form, "^(tcp|udp):[0-9.]*:[0-9]{1,5}-[0-9.]*:[0-9]{1,5}$", REG_EXTENDED | REG_NOSUB))
		return -ENOMEM;
	for (unsigned i = 0; !error && i < uplink->forwards_count; i++) {
		if (regexec(&form, uplink->forwards[i], 0, NULL, 0))
			error = FAIL(place,
				     "\"%.60s\" is no forward; write protocol:host:port-guest:port, such as "
				     "tcp:127.0.0.1:2222-10.0.2.15:22",
				     uplink->forwards[i]);
	}
	regfree(&form);
	return error;
}

static int check_uplink(struct config_uplink *uplink, struct config_document *document, const char *folder,
			unsigned index)
{
	struct config_place size = PLACE("networks", (int)index, "uplink", "size");

	if (check_keys(uplink, document, index))
		return -EINVAL;
	switch (uplink->type) {
	case UPLINK_TAP:
		return check_tap(uplink, document, index);
	case UPLINK_STREAM:
		return check_stream(uplink, document, folder, index);
	case UPLINK_SLIRP:
		return check_net4(uplink, document, index) ? -EINVAL : check_forwards(uplink, document, index);
	case UPLINK_SOURCE:
		if (config_document_has(document, size) &&
		    (uplink->size < FRAME_LENGTH_MIN || uplink->size > FRAME_LENGTH_MAX))
			return FAIL(size, "size is %u; use %u to %u bytes", uplink->size, FRAME_LENGTH_MIN,
				    FRAME_LENGTH_MAX);
		return 0;
	default:
		return 0;
	}
}

int config_check_network(struct config *config, struct config_document *document, const char *folder, unsigned index)
{
	struct config_network *network = &config->networks[index];

	if (config_check_name(document, "networks", index, network->name))
		return -EINVAL;
	for (unsigned i = 0; i < index; i++) {
		if (!strcmp(config->networks[i].name, network->name))
			return FAIL(PLACE("networks", (int)index, "name"),
				    "there already is a network \"%s\"; names must differ", network->name);
	}
	if (config_document_has(document, PLACE("networks", (int)index, "aging")) && !network->aging)
		return FAIL(PLACE("networks", (int)index, "aging"),
			    "aging is 0 seconds; learned addresses must live for a while: use 1 and more");
	if (network->patience &&
	    config_check_duration(document, PLACE("networks", (int)index, "patience"), network->patience,
				  10 * NANOSECONDS_PER_SECOND, &network->patience_ns))
		return -EINVAL;
	/* To the switch 0 means its default; to a person it means to drop at once. */
	if (network->patience)
		network->patience_ns = max(network->patience_ns, (uint64_t)1);
	return network->uplink ? check_uplink(network->uplink, document, folder, index) : 0;
}
