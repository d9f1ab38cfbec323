/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Configuration: a YAML file that a person can read, loaded into these structures by libcyaml and then checked as a whole.
 * Errors name file, line and remedy.
 *
 *	control: /run/sidecore/control.sock     # JSON control socket
 *	sidecores:
 *	  - cpu: 3                              # left out: the last allowed CPU
 *	busy_poll: 50us                         # spin that long without work before sleeping
 *	networks:
 *	  - name: lan
 *	    uplink: { type: slirp }             # none | slirp | tap | stream | null | source
 *	interfaces:
 *	  - name: web-net
 *	    network: lan
 *	    socket: web-net.sock                # vhost-user; relative paths: to the configuration file
 *	    mode: server                        # server (we listen) | client (we connect)
 *	    mac: 52:54:00:00:00:01              # left out: derived from the name, locally administered
 *	    queue_pairs: 2
 *	    mtu: 1500
 *	    vlan: 10                            # access port; or trunk: [10, 20] with native: 1
 *	    isolated: true
 *	    check_mac: true
 *	    ipv4: [10.0.2.15]                   # anti-spoofing
 *	disks:
 *	  - name: web-disk
 *	    socket: web-disk.sock
 *	    queues: 2
 *	    block_size: 512
 *	    read_only: false
 *	    serial: web
 *	    backend: { type: file, path: web.img, direct: true }   # file | ram | null | nbd; size: 10G
 */
#ifndef CONTROL_CONFIG_H
#define CONTROL_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

struct config_sidecore {
	int cpu; /* -1: any */
};

struct config_uplink {
	int type; /* enum uplink_type */
	char *interface;
	unsigned queues;
	char *address;
	bool listen;
	char *net4;
	bool restricted;
	bool ipv6;
	char **forwards;
	unsigned forwards_count;
	uint32_t size;
};

struct config_network {
	char *name;
	struct config_uplink *uplink; /* NULL: none */
	uint32_t aging;		      /* seconds */
	char *patience;		      /* duration: "1ms" */
};

struct config_interface {
	char *name;
	char *network;
	char *socket;
	int mode; /* 0: server, 1: client */
	char *mac;
	uint16_t queue_pairs;
	uint16_t queue_size;
	uint16_t mtu;
	uint16_t vlan;
	uint16_t *trunk;
	unsigned trunk_count;
	uint16_t native;
	bool isolated, check_mac;
	char **ipv4;
	unsigned ipv4_count;
	int sidecore; /* index, -1: any */
};

struct config_backend {
	int type;
	char *path;
	char *uri;
	char *size; /* "64M" */
	bool direct;
};

struct config_disk {
	char *name;
	char *socket;
	int mode;
	uint16_t queues;
	uint16_t queue_size;
	uint32_t block_size;
	bool read_only;
	char *serial;
	struct config_backend *backend;
	int sidecore;
};

struct config {
	char *control;
	char *busy_poll;
	char *scheduler;
	struct config_sidecore *sidecores;
	unsigned sidecores_count;
	struct config_network *networks;
	unsigned networks_count;
	struct config_interface *interfaces;
	unsigned interfaces_count;
	struct config_disk *disks;
	unsigned disks_count;
};

/**
 * config_load() - read and check a configuration file.
 * @path:	file; relative socket and image paths in it are made relative to its folder
 * @config:	out; config_free() it
 * @error:	out, on failure: "file:line: what is wrong; what to do", to be freed
 *
 * Return: 0; -EINVAL and others with @error.
 */
int config_load(const char *path, struct config **config, char **error);
void config_free(struct config *config);

/** config_parse_size() - "64M", "10G", "4096" (binary multiples). config_parse_duration() - "50us", "1ms", "2s" to ns. */
int config_parse_size(const char *text, uint64_t *size);
int config_parse_duration(const char *text, uint64_t *nanoseconds);
int config_parse_mac(const char *text, uint8_t mac[6]);

#endif
