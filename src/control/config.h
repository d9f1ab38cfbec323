/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Configuration: a YAML file that a person can read, loaded into these structures by libcyaml and then checked as a
 * whole. Errors name file, line and remedy. The format is documented in docs/sidecore.yaml.5.scd; in short:
 *
 *	control: /run/sidecore/control.sock     # JSON control socket; "none" for none
 *	group: kvm                              # group that may use the sockets; left out: the daemon's own
 *	sidecores:
 *	  - cpu: 3                              # left out: the last allowed CPU that no other sidecore has
 *	busy_poll: 50us                         # spin that long without work before sleeping; left out: adaptive
 *	scheduler: round-robin
 *	networks:
 *	  - name: lan
 *	    uplink: { type: slirp }             # none | slirp | tap | stream | null | source
 *	    aging: 300                          # seconds
 *	    patience: 1ms                       # with a full receiver, before frames are dropped
 *	interfaces:
 *	  - name: web-net
 *	    network: lan
 *	    model: virtio                       # vhost-user; or igb, e1000e, e1000: emulated, vfio-user
 *	    doorbells: mapped                   # igb, e1000e, e1000 (posted): mapped | posted
 *	    receive_coalescing: false           # igb: for guests with Linux that do not forward
 *	    socket: web-net.sock                # relative paths: to the configuration file
 *	    mode: server                        # server (we listen) | client (we connect)
 *	    mac: 52:54:00:00:00:01              # left out: derived from the name, locally administered
 *	    queue_pairs: 2                      # 1 to 8
 *	    queue_size: 1024                    # the largest that the guest may choose
 *	    mtu: 1500
 *	    vlan: 10                            # access port; or trunk: [10, 20] with native: 1
 *	    isolated: true
 *	    check_mac: true
 *	    ipv4: [10.0.2.15]                   # anti-spoofing
 *	    sidecore: 0                         # index into sidecores; left out: the one with the fewest queues
 *	    memory_max: 64G                     # of guest memory mapped at a time; left out: 1T
 *	disks:
 *	  - name: web-disk
 *	    model: virtio                       # vhost-user; or nvme: emulated, vfio-user
 *	    doorbells: mapped                   # nvme: mapped | posted
 *	    socket: web-disk.sock
 *	    controller: other-disk              # a further namespace of that NVMe disk, without a socket of its own
 *	    queues: 2                           # 1 to 16; nvme: 1 to 64
 *	    block_size: 512                     # or 4096
 *	    read_only: false
 *	    serial: web                         # at most 20 bytes; left out: the name
 *	    backend: { type: file, path: web.img, direct: true }   # file | ram | null | nbd; size: 10G, timeout: 30s
 *
 * What the file says in words (durations, sizes, addresses) is kept as text next to the value it means; the program
 * uses the values, listed under "checked".
 */
#ifndef CONTROL_CONFIG_H
#define CONTROL_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#define CONFIG_QUEUE_PAIRS_MAX 8U
#define CONFIG_DISK_QUEUES_MAX 16U
#define CONFIG_NVME_QUEUES_MAX 64U
#define CONFIG_NVME_QUEUE_SIZE_MAX 4096U
#define CONFIG_NAMESPACES_MAX  64U /* of one controller */
#define CONFIG_VLAN_MAX	       4094U
#define CONFIG_IPV4_MAX	       8U
#define CONFIG_SERIAL_MAX      20U

/** enum config_mode - who listens on a vhost-user socket. */
enum config_mode {
	CONFIG_MODE_SERVER,
	CONFIG_MODE_CLIENT,
};

/** enum config_nic_model, config_disk_model - what the guest sees. */
enum config_nic_model {
	CONFIG_NIC_VIRTIO,
	CONFIG_NIC_IGB,
	CONFIG_NIC_E1000E,
	CONFIG_NIC_E1000,
};

enum config_disk_model {
	CONFIG_DISK_VIRTIO,
	CONFIG_DISK_NVME,
};

/** enum config_doorbells - of emulated devices: pages that the guest maps, or writes that come as messages. */
enum config_doorbells {
	CONFIG_DOORBELLS_MAPPED,
	CONFIG_DOORBELLS_POSTED,
};

struct config_sidecore {
	int *cpu_given;

	/* checked */
	int cpu; /* -1: any */
};

struct config_uplink {
	int type;	 /* enum uplink_type */
	char *interface; /* tap */
	unsigned queues; /* tap; 0: 1 */
	char *address;	 /* stream: absolute unix path, or host:port */
	bool listen;	 /* stream */
	char *net4;	 /* slirp */
	bool restricted; /* slirp */
	bool ipv6;	 /* slirp */
	char **forwards; /* slirp */
	unsigned forwards_count;
	uint32_t size; /* source; 0: 64 */
};

struct config_network {
	char *name;
	struct config_uplink *uplink; /* NULL: none */
	uint32_t aging;		      /* seconds; 0: 300 */
	char *patience;		      /* duration: "1ms" */

	/* checked */
	uint64_t patience_ns; /* 0: default */
};

struct config_interface {
	char *name;
	char *network;
	int model;     /* enum config_nic_model */
	int doorbells; /* enum config_doorbells */
	bool receive_coalescing;
	char *socket;
	int mode; /* enum config_mode */
	char *mac;
	uint16_t queue_pairs; /* never 0 after config_load() */
	uint16_t queue_size;  /* 0: the device's own maximum */
	uint16_t mtu;	      /* 0: 1500 and not announced */
	uint16_t vlan;	      /* 0: none */
	uint16_t *trunk;
	unsigned trunk_count;
	uint16_t native; /* 0: untagged frames are dropped */
	bool isolated, check_mac;
	char **ipv4;
	unsigned ipv4_count;
	unsigned *sidecore_given;
	char *memory_max;

	/* checked */
	unsigned network_index; /* into config->networks */
	uint8_t address[6];
	uint32_t ipv4_addresses[CONFIG_IPV4_MAX]; /* network byte order */
	int sidecore;				  /* index, -1: any */
	uint64_t memory_max_bytes;		  /* 0: the default */
};

/** enum config_backend_type - in the order of struct disk_config's own. */
enum config_backend_type {
	CONFIG_BACKEND_FILE,
	CONFIG_BACKEND_RAM,
	CONFIG_BACKEND_NULL,
	CONFIG_BACKEND_NBD,
};

struct config_backend {
	int type;   /* enum config_backend_type */
	char *path; /* file; absolute */
	char *uri;  /* nbd */
	char *size; /* "64M": ram and null; file: create it with this size when it is not there */
	bool *direct_given;
	char *timeout; /* nbd: duration: "30s" */
	bool handover; /* file: locked only while a guest uses it */

	/* checked */
	bool direct; /* file: try O_DIRECT; left out: true */
	uint64_t size_bytes;
	uint32_t timeout_ms; /* nbd; 0: default */
};

struct config_disk {
	char *name;
	int model;	  /* enum config_disk_model */
	int doorbells;	  /* enum config_doorbells */
	char *controller; /* name of the disk whose namespace this is; NULL: it is a device of its own */
	char *socket;	  /* NULL: a namespace */
	int mode;	     /* enum config_mode */
	uint16_t queues;     /* never 0 after config_load(), but for namespaces */
	uint16_t queue_size; /* 0: the device's own maximum */
	uint32_t block_size; /* 512 or 4096 */
	bool read_only;
	char *serial;
	struct config_backend *backend;
	unsigned *sidecore_given;
	char *memory_max;

	/* checked */
	int sidecore;		   /* index, -1: any */
	uint64_t memory_max_bytes; /* 0: the default */
	int controller_index;	   /* into config->disks; -1: none */
};

struct config {
	char *control; /* absolute path; NULL: no control socket */
	char *group;
	char *busy_poll;
	char *scheduler;
	struct config_sidecore *sidecores; /* at least one after config_load() */
	unsigned sidecores_count;
	struct config_network *networks;
	unsigned networks_count;
	struct config_interface *interfaces;
	unsigned interfaces_count;
	struct config_disk *disks;
	unsigned disks_count;

	/* checked */
	uint64_t busy_poll_ns; /* 0: the engine's own, adaptive */
	int group_id;	       /* -1: none given */
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

/** config_nic_model_name(), config_disk_model_name() - the word in the file. */
const char *config_nic_model_name(int model);
const char *config_disk_model_name(int model);

/** config_load_text() - the same for text that is not in a file; @path is what messages and relative paths refer to. */
int config_load_text(const char *path, const char *text, struct config **config, char **error);

void config_free(struct config *config);

/**
 * config_default_control_path() - where the control socket is when nothing says otherwise: /run/sidecore/control.sock
 * when that folder can be written (the service, root), else $XDG_RUNTIME_DIR/sidecore.sock.
 * @for_client:	look for a socket that exists rather than for a place to make one
 * @path:	out, to be freed
 *
 * Return: 0; -ENOENT when there is no such place; -ENOMEM.
 */
int config_default_control_path(bool for_client, char **path);

/** config_parse_size() - "64M", "10G", "4096" (binary multiples). Return: 0, -EINVAL, -ERANGE. */
int config_parse_size(const char *text, uint64_t *size);

/** config_parse_duration() - "50us", "1ms", "2s" to nanoseconds; 0 needs no unit. Return: as above. */
int config_parse_duration(const char *text, uint64_t *nanoseconds);

/** config_parse_mac() - six pairs of hexadecimal digits with colons; a unicast address. Return: 0, -EINVAL. */
int config_parse_mac(const char *text, uint8_t mac[6]);

/** config_derive_mac() - a stable, locally administered unicast address out of a name. */
void config_derive_mac(const char *name, uint8_t mac[6]);

#endif
