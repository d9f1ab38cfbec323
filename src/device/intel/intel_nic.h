/* SPDX-License-Identifier: BSD-3-Clause */
/* Intel Gigabit network cards: 82540EM (e1000), 82574L (e1000e), 82576 (igb). Theory of operation:
 * device/intel/intel_nic.c. */
#ifndef DEVICE_INTEL_INTEL_NIC_H
#define DEVICE_INTEL_INTEL_NIC_H

#include "device/pci/pci_device.h"
#include "net/network.h"
#include "net/port.h"

enum intel_nic_model {
	INTEL_NIC_E1000,  /* 82540EM */
	INTEL_NIC_E1000E, /* 82574L */
	INTEL_NIC_IGB,	  /* 82576 */
};

struct intel_nic_options {
	const char *name;
	enum intel_nic_model model;
	uint8_t mac[6];
	bool posted;	 /* do not offer doorbell pages for mapping; for 82540EM it is better so */
	bool coalescing; /* 82576: TCP segments may come several as one frame: intel_coalesce.c */
	bool isolated;	 /* of the port, likewise below: net/port.h */
	bool check_mac;
	uint8_t ipv4_count;
	uint32_t ipv4[PORT_IPV4_MAX]; /* network byte order */
	struct port_vlan vlan;
	int sidecore; /* -1: any; else the index of the sidecore that has all its queues */
};

/** intel_nic_create() - a paused card on @network. Return: 0, -EINVAL, -ENOMEM, -ENOSPC (no port free), errors of
 * pci_device_init(). */
int intel_nic_create(const struct intel_nic_options *options, struct engine *engine, struct network *network,
		     struct pci_device **device);

/** intel_nic_destroy() - it is paused, without a transport. @completion (may be NULL) runs when it is gone. */
void intel_nic_destroy(struct pci_device *device, struct engine_completion *completion);

/** intel_nic_set_link() - plug or pull the cable: the guest sees the link go up or down. */
void intel_nic_set_link(struct pci_device *device, bool up);

/** intel_nic_port() - for status. */
const struct port *intel_nic_port(const struct pci_device *device);

#endif
