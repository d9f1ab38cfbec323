/* SPDX-License-Identifier: BSD-3-Clause */
/* Which keys the configuration has, of what type, and where libcyaml puts them. One line a key, as in config.h. */
#include "control/config_schema.h"

#include "base/checked.h"
#include "control/config.h"
#include "net/uplink.h"

#define TEXT(key, structure, member)                                                                                   \
	CYAML_FIELD_STRING_PTR(key, CYAML_FLAG_POINTER, structure, member, 0, CYAML_UNLIMITED)
#define OPTIONAL_TEXT(key, structure, member)                                                                          \
	CYAML_FIELD_STRING_PTR(key, CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, structure, member, 0, CYAML_UNLIMITED)
#define OPTIONAL_NUMBER(key, structure, member) CYAML_FIELD_UINT(key, CYAML_FLAG_OPTIONAL, structure, member)
#define GIVEN_NUMBER(key, structure, member)                                                                           \
	CYAML_FIELD_UINT_PTR(key, CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, structure, member)
#define GIVEN_INTEGER(key, structure, member)                                                                          \
	CYAML_FIELD_INT_PTR(key, CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, structure, member)
#define OPTIONAL_BOOL(key, structure, member) CYAML_FIELD_BOOL(key, CYAML_FLAG_OPTIONAL, structure, member)
#define GIVEN_BOOL(key, structure, member)                                                                             \
	CYAML_FIELD_BOOL_PTR(key, CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, structure, member)
#define CHOICE(key, flags, structure, member, words)                                                                   \
	CYAML_FIELD_ENUM(key, CYAML_FLAG_STRICT | (flags), structure, member, words, array_size(words))
#define OPTIONAL_LIST(key, structure, member, entry, most)                                                             \
	CYAML_FIELD_SEQUENCE(key, CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, structure, member, entry, 0, most)

static const cyaml_strval_t mode_words[] = {
	{ "server", CONFIG_MODE_SERVER },
	{ "client", CONFIG_MODE_CLIENT },
};

static const cyaml_strval_t nic_model_words[] = {
	{ "virtio", CONFIG_NIC_VIRTIO },
	{ "igb", CONFIG_NIC_IGB },
	{ "e1000e", CONFIG_NIC_E1000E },
	{ "e1000", CONFIG_NIC_E1000 },
};

static const cyaml_strval_t disk_model_words[] = {
	{ "virtio", CONFIG_DISK_VIRTIO },
	{ "nvme", CONFIG_DISK_NVME },
};

static const cyaml_strval_t doorbells_words[] = {
	{ "mapped", CONFIG_DOORBELLS_MAPPED },
	{ "posted", CONFIG_DOORBELLS_POSTED },
};

static const cyaml_strval_t uplink_words[] = {
	{ "none", UPLINK_NONE },     { "slirp", UPLINK_SLIRP }, { "tap", UPLINK_TAP },
	{ "stream", UPLINK_STREAM }, { "null", UPLINK_NULL },	{ "source", UPLINK_SOURCE },
};

static const cyaml_strval_t backend_words[] = {
	{ "file", CONFIG_BACKEND_FILE },
	{ "ram", CONFIG_BACKEND_RAM },
	{ "null", CONFIG_BACKEND_NULL },
	{ "nbd", CONFIG_BACKEND_NBD },
};

static const cyaml_schema_value_t text_entry = { CYAML_VALUE_STRING(CYAML_FLAG_POINTER, char, 0, CYAML_UNLIMITED) };
static const cyaml_schema_value_t number16_entry = { CYAML_VALUE_UINT(CYAML_FLAG_DEFAULT, uint16_t) };

static const cyaml_schema_field_t sidecore_fields[] = {
	GIVEN_INTEGER("cpu", struct config_sidecore, cpu_given),
	CYAML_FIELD_END
};

static const cyaml_schema_field_t uplink_fields[] = {
	CHOICE("type", 0, struct config_uplink, type, uplink_words),
	OPTIONAL_TEXT("interface", struct config_uplink, interface),
	OPTIONAL_NUMBER("queues", struct config_uplink, queues),
	OPTIONAL_TEXT("address", struct config_uplink, address),
	OPTIONAL_BOOL("listen", struct config_uplink, listen),
	OPTIONAL_TEXT("net4", struct config_uplink, net4),
	OPTIONAL_BOOL("restricted", struct config_uplink, restricted),
	OPTIONAL_BOOL("ipv6", struct config_uplink, ipv6),
	OPTIONAL_LIST("forwards", struct config_uplink, forwards, &text_entry, 256),
	OPTIONAL_NUMBER("size", struct config_uplink, size),
	CYAML_FIELD_END
};

static const cyaml_schema_field_t network_fields[] = {
	TEXT("name", struct config_network, name),
	CYAML_FIELD_MAPPING_PTR("uplink", CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, struct config_network, uplink,
				uplink_fields),
	OPTIONAL_NUMBER("aging", struct config_network, aging),
	OPTIONAL_TEXT("patience", struct config_network, patience),
	CYAML_FIELD_END
};

static const cyaml_schema_field_t interface_fields[] = {
	TEXT("name", struct config_interface, name),
	TEXT("network", struct config_interface, network),
	CHOICE("model", CYAML_FLAG_OPTIONAL, struct config_interface, model, nic_model_words),
	CHOICE("doorbells", CYAML_FLAG_OPTIONAL, struct config_interface, doorbells, doorbells_words),
	OPTIONAL_BOOL("receive_coalescing", struct config_interface, receive_coalescing),
	TEXT("socket", struct config_interface, socket),
	CHOICE("mode", CYAML_FLAG_OPTIONAL, struct config_interface, mode, mode_words),
	OPTIONAL_TEXT("mac", struct config_interface, mac),
	OPTIONAL_NUMBER("queue_pairs", struct config_interface, queue_pairs),
	OPTIONAL_NUMBER("queue_size", struct config_interface, queue_size),
	OPTIONAL_NUMBER("mtu", struct config_interface, mtu),
	OPTIONAL_NUMBER("vlan", struct config_interface, vlan),
	OPTIONAL_LIST("trunk", struct config_interface, trunk, &number16_entry, CONFIG_VLAN_MAX),
	OPTIONAL_NUMBER("native", struct config_interface, native),
	OPTIONAL_BOOL("isolated", struct config_interface, isolated),
	OPTIONAL_BOOL("check_mac", struct config_interface, check_mac),
	OPTIONAL_LIST("ipv4", struct config_interface, ipv4, &text_entry, CONFIG_IPV4_MAX),
	GIVEN_NUMBER("sidecore", struct config_interface, sidecore_given),
	OPTIONAL_TEXT("memory_max", struct config_interface, memory_max),
	CYAML_FIELD_END
};

static const cyaml_schema_field_t backend_fields[] = {
	CHOICE("type", 0, struct config_backend, type, backend_words),
	OPTIONAL_TEXT("path", struct config_backend, path),
	OPTIONAL_TEXT("uri", struct config_backend, uri),
	OPTIONAL_TEXT("size", struct config_backend, size),
	GIVEN_BOOL("direct", struct config_backend, direct_given),
	OPTIONAL_TEXT("timeout", struct config_backend, timeout),
	OPTIONAL_BOOL("handover", struct config_backend, handover),
	CYAML_FIELD_END
};

static const cyaml_schema_field_t disk_fields[] = {
	TEXT("name", struct config_disk, name),
	CHOICE("model", CYAML_FLAG_OPTIONAL, struct config_disk, model, disk_model_words),
	CHOICE("doorbells", CYAML_FLAG_OPTIONAL, struct config_disk, doorbells, doorbells_words),
	OPTIONAL_TEXT("controller", struct config_disk, controller),
	OPTIONAL_TEXT("socket", struct config_disk, socket), /* but for namespaces, it is required */
	CHOICE("mode", CYAML_FLAG_OPTIONAL, struct config_disk, mode, mode_words),
	OPTIONAL_NUMBER("queues", struct config_disk, queues),
	OPTIONAL_NUMBER("queue_size", struct config_disk, queue_size),
	OPTIONAL_NUMBER("block_size", struct config_disk, block_size),
	OPTIONAL_BOOL("read_only", struct config_disk, read_only),
	OPTIONAL_TEXT("serial", struct config_disk, serial),
	CYAML_FIELD_MAPPING_PTR("backend", CYAML_FLAG_POINTER, struct config_disk, backend, backend_fields),
	GIVEN_NUMBER("sidecore", struct config_disk, sidecore_given),
	OPTIONAL_TEXT("memory_max", struct config_disk, memory_max),
	CYAML_FIELD_END
};

static const cyaml_schema_value_t sidecore_entry = { CYAML_VALUE_MAPPING(CYAML_FLAG_DEFAULT, struct config_sidecore,
									 sidecore_fields) };
static const cyaml_schema_value_t network_entry = { CYAML_VALUE_MAPPING(CYAML_FLAG_DEFAULT, struct config_network,
									network_fields) };
static const cyaml_schema_value_t interface_entry = { CYAML_VALUE_MAPPING(CYAML_FLAG_DEFAULT, struct config_interface,
									  interface_fields) };
static const cyaml_schema_value_t disk_entry = { CYAML_VALUE_MAPPING(CYAML_FLAG_DEFAULT, struct config_disk,
								     disk_fields) };

static const cyaml_schema_field_t config_fields[] = {
	OPTIONAL_TEXT("control", struct config, control),
	OPTIONAL_TEXT("group", struct config, group),
	OPTIONAL_TEXT("busy_poll", struct config, busy_poll),
	OPTIONAL_TEXT("scheduler", struct config, scheduler),
	OPTIONAL_LIST("sidecores", struct config, sidecores, &sidecore_entry, SIDECORES_MAX),
	OPTIONAL_LIST("networks", struct config, networks, &network_entry, 256),
	OPTIONAL_LIST("interfaces", struct config, interfaces, &interface_entry, 1024),
	OPTIONAL_LIST("disks", struct config, disks, &disk_entry, 1024),
	CYAML_FIELD_END
};

const cyaml_schema_value_t config_schema = { CYAML_VALUE_MAPPING(CYAML_FLAG_POINTER, struct config, config_fields) };

const char *config_nic_model_name(int model)
{
	return nic_model_words[model].str;
}

const char *config_disk_model_name(int model)
{
	return disk_model_words[model].str;
}
