/* SPDX-License-Identifier: BSD-3-Clause */
/* Good and bad configurations, one a case, with the exact line that a person gets to read. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/clock.h"
#include "control/config.h"
#include "control/suggest.h"
#include "net/uplink.h"

/* Lines 1 to 3, so that what a case adds starts on line 4. */
#define HEAD "control: none\nnetworks:\n  - name: lan\n"
/* One interface from line 4 on; a case adds keys from line 8 on. */
#define NIC  HEAD "interfaces:\n  - name: a\n    network: lan\n    socket: a.sock\n"
/* One disk from line 4 on; a case adds keys from line 8 on. */
#define DISK HEAD "disks:\n  - name: d\n    socket: d.sock\n    backend: { type: null, size: 1G }\n"
#define LONG "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

static const struct {
	const char *text, *error;
} bad[] = {
	/* YAML itself */
	{ "", "1: the file is empty; sidecore.yaml(5) has an example to start from" },
	{ "[1]\n", "1: the file must consist of keys and values; sidecore.yaml(5) has an example" },
	{ "control: none\ndisks: [\n", "3: not valid YAML: did not find expected node content while parsing a flow node; "
				       "check indentation, colons and quotes here" },
	{ "control: \"none\ndisks: 3\n", "1: not valid YAML: found unexpected end of stream while scanning a quoted scalar; "
					 "check indentation, colons and quotes here" },
	{ NIC "---\ncontrol: none\n",
	  "9: a second document starts here; remove the \"---\" or use a file of its own" },
	{ "control: \"a\\0b\"\n", "1: a value contains a zero byte; remove it" },
	/* keys */
	{ NIC "    sokcet: b\n", "8: unknown key \"sokcet\" in interface; did you mean \"socket\"?" },
	{ NIC "    vlna: 3\n", "8: unknown key \"vlna\" in interface; did you mean \"vlan\"?" },
	{ "interface: []\n", "1: unknown key \"interface\"; did you mean \"interfaces\"?" },
	{ "zzz: 1\n", "1: unknown key \"zzz\"; the keys here are: control, group, busy_poll, scheduler, sidecores, networks, "
		      "interfaces, disks" },
	{ HEAD "    uplink: { typ: slirp }\n", "4: unknown key \"typ\" in uplink; did you mean \"type\"?" },
	{ NIC "    mtu: 1500\n    mtu: 9000\n", "9: \"mtu\" is given twice; keep one of them" },
	{ NIC "    ? [1]\n    : 2\n", "8: a key must be a word; remove the brackets" },
	{ "interfaces:\n  - network: lan\n    socket: x\n", "2: interface has no \"name\"; add it" },
	{ HEAD "    uplink: { interface: tap0 }\n", "4: uplink has no \"type\"; add it" },
	/* types */
	{ "interfaces: 3\n", "1: \"interfaces\" must be a list ([a, b], or lines that start with -)" },
	{ "interfaces: [3]\n", "1: \"interface\" must be keys and values (key: value)" },
	{ NIC "    mtu: [1]\n", "8: \"mtu\" must be a single value" },
	{ NIC "    mtu:\n", "8: \"mtu\" has no value; write one or remove the key" },
	{ NIC "    mac: ~\n", "8: \"mac\" has no value; write one or remove the key" },
	{ NIC "    mtu: big\n", "8: \"mtu\" is \"big\"; write a whole number from 0 to 65535" },
	{ NIC "    mtu: -1\n", "8: \"mtu\" is \"-1\"; write a whole number from 0 to 65535" },
	{ NIC "    mtu: 010\n", "8: \"mtu\" is \"010\"; write a whole number from 0 to 65535" },
	{ NIC "    mtu: 65536\n", "8: \"mtu\" is \"65536\"; write a whole number from 0 to 65535" },
	{ NIC "    mtu: 99999999999999999999\n",
	  "8: \"mtu\" is \"99999999999999999999\"; write a whole number from 0 to 65535" },
	{ NIC "    isolated: maybe\n", "8: \"isolated\" is \"maybe\"; write true or false" },
	{ NIC "    mode: servr\n", "8: unknown mode \"servr\" of interface; did you mean \"server\"?" },
	{ HEAD "    uplink: { type: wifi }\n",
	  "4: unknown type \"wifi\" of uplink; use one of: none, slirp, tap, stream, null, source" },
	{ NIC "    ipv4: [1.1.1.1, 1.1.1.2, 1.1.1.3, 1.1.1.4, 1.1.1.5, 1.1.1.6, 1.1.1.7, 1.1.1.8, 1.1.1.9]\n",
	  "8: \"ipv4\" has 9 entries; at most 8 are possible" },
	/* the whole */
	{ HEAD, "1: there is nothing to serve; add \"interfaces\" or \"disks\"" },
	{ NIC "control: a\ncontrol: b\n", "8: \"control\" is given twice; keep one of them" },
	{ "group: no_such_group\n" , "1: unknown group \"no_such_group\"; create it or name another" },
	{ "control: none\nbusy_poll: 50\n",
	  "2: \"50\" is not a duration; write a number with a unit: 50us, 1ms, 2s" },
	{ "control: none\nbusy_poll: 11s\n", "2: \"11s\" is too long; at most 10s make sense here" },
	{ "control: none\nscheduler: magic\n", "2: unknown scheduler \"magic\"; leave it out for the default" },
	/* networks */
	{ HEAD "  - name: lan\n", "4: there already is a network \"lan\"; names must differ" },
	{ HEAD "  - name: a b\n",
	  "4: \"a b\" is no good name; use 1 to 63 letters, digits, dots, dashes and underscores" },
	{ HEAD "    aging: 0\n", "4: aging is 0 seconds; learned addresses must live for a while: use 1 and more" },
	{ HEAD "    uplink:\n      type: slirp\n      address: x\n",
	  "6: \"address\" belongs to an uplink of type stream, and this is slirp; remove it, or change the type" },
	{ HEAD "    uplink: { type: tap }\n", "4: uplink has no \"interface\"; name the tap device, such as tap0" },
	{ HEAD "    uplink: { type: tap, interface: a_name_of_sixteen }\n",
	  "4: \"a_name_of_sixteen\" is no name of a network device; use up to 15 letters and digits" },
	{ HEAD "    uplink: { type: tap, interface: tap0, queues: 9 }\n", "4: queues is 9; use 1 to 8" },
	{ HEAD "    uplink: { type: stream }\n",
	  "4: uplink has no \"address\"; add the path of a unix socket, or host:port" },
	{ HEAD "    uplink: { type: stream, address: \"host:0\" }\n",
	  "4: \"host:0\" is no address; write host:port with a port from 1 to 65535, or a path" },
	{ HEAD "    uplink: { type: slirp, net4: 10.0.2.0 }\n",
	  "4: \"10.0.2.0\" is no network; write one with 8 to 27 bits, such as 10.0.2.0/24" },
	{ HEAD "    uplink: { type: slirp, net4: 10.0.2.1/24 }\n",
	  "4: \"10.0.2.1/24\" has bits set after the first 24; write the network's own address" },
	{ HEAD "    uplink: { type: slirp, forwards: [ \"22\" ] }\n",
	  "4: \"22\" is no forward; write protocol:host:port-guest:port, such as tcp:127.0.0.1:2222-10.0.2.15:22" },
	{ HEAD "    uplink: { type: source, size: 13 }\n", "4: size is 13; use 14 to 65792 bytes" },
	/* interfaces */
	{ NIC "  - name: a\n    network: lan\n    socket: b.sock\n",
	  "8: there already is an interface \"a\"; names must differ" },
	{ NIC "  - name: b\n    network: wan\n    socket: b.sock\n", "9: unknown network \"wan\"; there are: lan" },
	{ "control: none\ninterfaces:\n  - { name: a, network: lan, socket: a }\n",
	  "3: unknown network \"lan\"; add it to \"networks\"" },
	{ NIC "  - name: b\n    network: lan\n    socket: \"\"\n", "10: \"socket\" is empty; write a path" },
	{ NIC "  - name: b\n    network: lan\n    socket: /" LONG "/" LONG "\n",
	  "10: socket path is 130 bytes long and 107 fit; use a shorter folder" },
	{ NIC "  - name: b\n    network: lan\n    socket: /tmp/../tmp/a\n  - name: c\n    network: lan\n    socket: /tmp/../tmp/a\n",
	  "13: socket \"/tmp/../tmp/a\" already belongs to b; give c one of its own" },
	{ NIC "    mac: 52:54:00:00:00\n",
	  "8: \"52:54:00:00:00\" is not the address of a network card; write six pairs of hexadecimal digits, the first "
	  "even: 52:54:00:00:00:01" },
	{ NIC "    mac: 53:54:00:00:00:01\n",
	  "8: \"53:54:00:00:00:01\" is not the address of a network card; write six pairs of hexadecimal digits, the first "
	  "even: 52:54:00:00:00:01" },
	{ NIC "    mac: 52:54:00:00:00:01\n"
	      "  - name: b\n    network: lan\n    socket: b.sock\n    mac: 52:54:00:00:00:01\n",
	  "12: a and b have the same MAC address in network lan; give one of them another \"mac\"" },
	{ NIC "    queue_pairs: 9\n", "8: queue_pairs is 9; use 1 to 8" },
	{ NIC "    queue_pairs: 0\n", "8: queue_pairs is 0; use 1 to 8" },
	{ NIC "    queue_size: 100\n", "8: queue_size is 100; use a power of two from 16 to 32768" },
	{ NIC "    mtu: 67\n", "8: mtu is 67; use 68 to 65535" },
	{ NIC "    vlan: 4095\n", "8: VLAN 4095 does not exist; use 1 to 4094" },
	{ NIC "    vlan: 0\n", "8: VLAN 0 does not exist; use 1 to 4094" },
	{ NIC "    trunk: [10, 5000]\n", "8: VLAN 5000 does not exist; use 1 to 4094" },
	{ NIC "    trunk: []\n", "8: the trunk is empty; list its VLANs, or remove it" },
	{ NIC "    vlan: 1\n    trunk: [2]\n", "9: a port is either in one \"vlan\" or a \"trunk\"; remove one of the two" },
	{ NIC "    native: 1\n", "8: \"native\" belongs to a trunk; add \"trunk\", or use \"vlan\" instead" },
	{ NIC "    ipv4: [10.0.2.256]\n", "8: \"10.0.2.256\" is not an IPv4 address; write 10.0.2.15" },
	{ NIC "    sidecore: 1\n", "8: there is no sidecore 1; they are counted from 0, and there is 1" },
	{ NIC "    memory_max: 4X\n",
	  "8: \"4X\" is not a size; write bytes, or a number with K, M, G or T: 512M, 10G" },
	/* models of interfaces */
	{ NIC "    model: e100\n", "8: unknown model \"e100\" of interface; did you mean \"e1000\"?" },
	{ NIC "    model: igb\n    queue_pairs: 2\n",
	  "9: \"queue_pairs\" means nothing to an interface of model igb; remove it" },
	{ NIC "    queue_size: 256\n    model: e1000\n",
	  "8: \"queue_size\" means nothing to an interface of model e1000; remove it" },
	{ NIC "    model: e1000e\n    mtu: 9000\n",
	  "9: \"mtu\" means nothing to an interface of model e1000e; remove it" },
	{ NIC "    doorbells: posted\n",
	  "8: \"doorbells\" means nothing to an interface of model virtio; remove it" },
	{ NIC "    receive_coalescing: true\n",
	  "8: \"receive_coalescing\" means nothing to an interface of model virtio; remove it" },
	{ NIC "    model: e1000e\n    receive_coalescing: true\n",
	  "9: drivers of e1000e throw away frames that take several descriptors; use model igb, or remove it" },
	{ NIC "    receive_coalescing: true\n    model: e1000\n",
	  "8: drivers of e1000 throw away frames that take several descriptors; use model igb, or remove it" },
	{ NIC "    model: igb\n    doorbells: trapped\n",
	  "9: unknown doorbells \"trapped\" of interface; did you mean \"mapped\"?" },
	{ NIC "    model: igb\n    mode: client\n",
	  "9: virtual machine monitors connect to an emulated device (igb) and never listen for it; remove \"mode\"" },
	/* sidecores */
	{ NIC "sidecores:\n  - cpu: 1023\n", NULL }, /* the sentence lists this machine's CPUs: compared below */
	/* disks */
	{ DISK "  - name: d\n    socket: e.sock\n    backend: { type: null, size: 1G }\n",
	  "8: there already is a disk \"d\"; names must differ" },
	{ NIC "disks:\n  - name: d\n    socket: a.sock\n    backend: { type: null, size: 1G }\n", NULL },
	{ DISK "    queues: 17\n", "8: queues is 17; use 1 to 16" },
	{ DISK "    block_size: 1024\n", "8: block_size is 1024; use 512 or 4096" },
	{ DISK "    serial: 123456789012345678901\n",
	  "8: serial is 21 bytes long; at most 20 fit (virtio-blk get-id)" },
	{ HEAD "disks:\n  - name: d\n    socket: d.sock\n", "5: disk has no \"backend\"; add it" },
	{ HEAD "disks:\n  - name: d\n    backend: { type: null, size: 1G }\n", "5: disk has no \"socket\"; add it" },
	/* models of disks */
	{ DISK "    model: nvm\n", "8: unknown model \"nvm\" of disk; did you mean \"nvme\"?" },
	{ DISK "    doorbells: posted\n", "8: \"doorbells\" means nothing to a disk of model virtio; remove it" },
	{ DISK "    model: nvme\n    queues: 65\n", "9: queues is 65; use 1 to 64" },
	{ DISK "    model: nvme\n    queue_size: 8192\n", "9: queue_size is 8192; use a power of two from 16 to 4096" },
	{ DISK "    model: nvme\n    mode: client\n",
	  "9: virtual machine monitors connect to an emulated device (nvme) and never listen for it; remove \"mode\"" },
	{ HEAD "disks:\n  - name: d\n    socket: d.sock\n    model: nvme\n"
	       "    backend: { type: file, path: x, size: 1M, handover: true }\n",
	  "8: guests with emulated devices cannot be migrated; remove \"handover\"" },
#define NAMESPACE(words) DISK "    model: nvme\n  - name: e\n    backend: { type: null, size: 1G }\n" words
	{ NAMESPACE(""), "9: disk has no \"socket\"; add it" },
	{ NAMESPACE("    controller: x\n"), "11: there is no disk \"x\"; name one of model nvme" },
	{ NAMESPACE("    controller: e\n"), "11: e cannot be a namespace of itself; remove \"controller\"" },
	{ NAMESPACE("    controller: d\n    socket: e.sock\n"), "12: \"socket\" belongs to the controller, d; remove it here" },
	{ NAMESPACE("    controller: d\n    queues: 2\n"), "12: \"queues\" belongs to the controller, d; remove it here" },
	{ NAMESPACE("    controller: d\n    serial: x\n"), "12: \"serial\" belongs to the controller, d; remove it here" },
	{ NAMESPACE("    controller: d\n    memory_max: 1G\n"),
	  "12: \"memory_max\" belongs to the controller, d; remove it here" },
	{ NAMESPACE("    controller: d\n    model: virtio\n"),
	  "12: a disk with a \"controller\" is a namespace of it; remove one of the two" },
	{ DISK "  - name: e\n    controller: d\n    backend: { type: null, size: 1G }\n",
	  "9: d has no controller; give it \"model: nvme\"" },
	{ NAMESPACE("    controller: d\n") "  - name: f\n    controller: e\n    backend: { type: null, size: 1G }\n",
	  "13: e is a namespace itself; name its controller, d" },
#define BACKEND(words) HEAD "disks:\n  - name: d\n    socket: d.sock\n    backend: { " words " }\n"
	{ BACKEND("type: ram"), "7: backend has no \"size\"; add one, such as 1G" },
	{ BACKEND("type: ram, size: 1000"), "7: size must be a multiple of the block size of 512 bytes, and not 0" },
	{ BACKEND("type: ram, size: 0"), "7: size must be a multiple of the block size of 512 bytes, and not 0" },
	{ BACKEND("type: ram, size: 1G, path: x"), "7: \"path\" means nothing to a backend of type ram; remove it" },
	{ BACKEND("type: ram, size: 99999999T"),
	  "7: \"99999999T\" is not a size; write bytes, or a number with K, M, G or T: 512M, 10G" },
	{ BACKEND("type: file"), "7: backend has no \"path\"; name an image file or a block device" },
	{ BACKEND("type: file, path: /nowhere/x.img"),
	  "7: \"/nowhere/x.img\" does not exist; create it, or add \"size\" to have it created" },
	{ BACKEND("type: nbd"), "7: backend has no \"uri\"; add one like nbd://host/export" },
	{ BACKEND("type: nbd, uri: \"http://x\""), "7: \"http://x\" is not an NBD address; write nbd://host/export or "
						   "nbd+unix:///export?socket=PATH" },
	{ BACKEND("type: nbd, uri: \"nbd://h/\", timeout: 5"),
	  "7: \"5\" is not a duration; write a number with a unit: 50us, 1ms, 2s" },
	{ BACKEND("type: nbd, uri: \"nbd://h/\", timeout: 99ms"), "7: timeout is 99ms; use 100ms to 3600s" },
	{ BACKEND("type: nbd, uri: \"nbd://h/\", timeout: 3601s"), "7: \"3601s\" is too long; at most 3600s make sense here" },
	{ BACKEND("type: ram, size: 1G, timeout: 1s"), "7: \"timeout\" means nothing to a backend of type ram; remove it" },
	{ BACKEND("type: file, path: x.img, size: 1M") "  - name: e\n    socket: e.sock\n    backend:\n      type: file\n"
						       "      path: x.img\n      size: 1M\n",
	  NULL },
};

static void test_bad(void **state)
{
	for (size_t i = 0; i < array_size(bad); i++) {
		struct config *config = (void *)1;
		char *error = NULL, expected[1024];

		if (config_load_text("x.yaml", bad[i].text, &config, &error) != -EINVAL)
			fail_msg("case %zu was taken:\n%s", i, bad[i].text);
		assert_null(config);
		assert_non_null(error);
		snprintf(expected, sizeof(expected), "x.yaml:%s", bad[i].error ? bad[i].error : "");
		if (bad[i].error && strcmp(error, expected))
			fail_msg("case %zu:\n  got:      %s\n  expected: %s", i, error, expected);
		free(error);
	}
}

/* Sentences that contain what belongs to this machine or folder. */
static void test_bad_local(void **state)
{
	static const struct {
		const char *text, *start, *end;
	} cases[] = {
		{ NIC "sidecores:\n  - cpu: 1023\n", "x.yaml:9: CPU 1023 is not allowed for this process; use one of ", "" },
		{ NIC "disks:\n  - name: d\n    socket: a.sock\n    backend: { type: null, size: 1G }\n", "x.yaml:10: socket \"/",
		  "/a.sock\" already belongs to a; give d one of its own" },
		{ BACKEND("type: file, path: x.img, size: 1M") "  - name: e\n    socket: e.sock\n    backend:\n"
							       "      type: file\n      path: x.img\n      size: 1M\n",
		  "x.yaml:12: \"/", "/x.img\" already is the image of d; an image has one disk that writes to it, or any number "
				    "that are read_only: use another one" },
	};

	for (size_t i = 0; i < array_size(cases); i++) {
		struct config *config;
		char *error = NULL;
		size_t length, end = strlen(cases[i].end);

		assert_int_equal(config_load_text("x.yaml", cases[i].text, &config, &error), -EINVAL);
		length = strlen(error);
		if (strncmp(error, cases[i].start, strlen(cases[i].start)) || length < end ||
		    strcmp(error + length - end, cases[i].end))
			fail_msg("case %zu: %s", i, error);
		free(error);
	}
}

static struct config *load(const char *text)
{
	struct config *config;
	char *error;

	if (config_load_text("x.yaml", text, &config, &error))
		fail_msg("refused: %s", error);
	return config;
}

static void test_defaults(void **state)
{
	struct config *config = load(NIC "disks:\n  - { name: d, socket: /d, backend: { type: nbd, uri: \"nbd://h/\" } }\n");
	uint8_t mac[6];
	char folder[512];

	assert_null(config->control);
	assert_int_equal(config->disks[0].backend->timeout_ms, 0);
	assert_int_equal(config->group_id, -1);
	assert_int_equal(config->busy_poll_ns, 0);
	assert_int_equal(config->sidecores_count, 1);
	assert_int_equal(config->sidecores[0].cpu, -1);
	assert_null(config->networks[0].uplink);
	assert_int_equal(config->interfaces[0].mode, CONFIG_MODE_SERVER);
	assert_int_equal(config->interfaces[0].queue_pairs, 1);
	assert_int_equal(config->interfaces[0].sidecore, -1);
	assert_non_null(getcwd(folder, sizeof(folder) - 16));
	strcat(folder, "/a.sock");
	assert_string_equal(config->interfaces[0].socket, folder);
	config_derive_mac("a", mac);
	assert_memory_equal(config->interfaces[0].address, mac, 6);
	assert_int_equal(config->disks[0].queues, 1);
	assert_int_equal(config->disks[0].block_size, 512);
	assert_int_equal(config->disks[0].backend->type, CONFIG_BACKEND_NBD);
	assert_true(config->disks[0].backend->direct);
	assert_false(config->disks[0].backend->handover);
	config_free(config);
}

static void test_everything(void **state)
{
	struct config *config = load(
		"control: /run/x.sock\nbusy_poll: 50us\nscheduler: round-robin\nsidecores: [{}]\n"
		"networks:\n"
		"  - { name: a, aging: 60, patience: 0 }\n"
		"  - { name: b, uplink: { type: slirp, net4: 10.1.0.0/16, restricted: yes, ipv6: off,\n"
		"                         forwards: [ \"tcp:127.0.0.1:22-10.0.2.15:22\" ] } }\n"
		"  - { name: c, uplink: { type: tap, interface: tap0, queues: 2 } }\n"
		"  - { name: d, uplink: { type: stream, address: \"[::1]:99\", listen: true } }\n"
		"  - { name: e, uplink: { type: null } }\n"
		"  - { name: f, uplink: { type: source, size: 1518 } }\n"
		"interfaces:\n"
		"  - { name: one, network: b, socket: /s1, mode: client, mac: 52:54:00:AB:cd:01, queue_pairs: 8,\n"
		"      queue_size: 256, mtu: 9000, trunk: [10, 20], native: 1, isolated: true, check_mac: on,\n"
		"      ipv4: [ 10.0.2.15, 10.0.2.16 ], sidecore: 0, memory_max: 2G }\n"
		"  - { name: two, network: a, socket: /s2, vlan: 7 }\n"
		"disks:\n"
		"  - { name: d, socket: /s3, mode: server, queues: 4, queue_size: 128, block_size: 4096, read_only: true,\n"
		"      serial: abc, backend: { type: file, path: /new.img, size: 1M, direct: false, handover: true }, sidecore: 0 }\n");
	const struct config_interface *one = &config->interfaces[0];

	assert_string_equal(config->control, "/run/x.sock");
	assert_int_equal(config->busy_poll_ns, 50000);
	assert_int_equal(config->networks[0].patience_ns, 1);
	assert_int_equal(config->networks[1].uplink->type, UPLINK_SLIRP);
	assert_true(config->networks[1].uplink->restricted);
	assert_false(config->networks[1].uplink->ipv6);
	assert_string_equal(config->networks[1].uplink->forwards[0], "tcp:127.0.0.1:22-10.0.2.15:22");
	assert_int_equal(config->networks[2].uplink->queues, 2);
	assert_string_equal(config->networks[3].uplink->address, "[::1]:99");
	assert_true(config->networks[3].uplink->listen);
	assert_int_equal(config->networks[4].uplink->type, UPLINK_NULL);
	assert_int_equal(config->networks[5].uplink->size, 1518);
	assert_int_equal(one->mode, CONFIG_MODE_CLIENT);
	assert_memory_equal(one->address, ((uint8_t[]){ 0x52, 0x54, 0, 0xab, 0xcd, 1 }), 6);
	assert_int_equal(one->network_index, 1);
	assert_int_equal(one->queue_pairs, 8);
	assert_int_equal(one->trunk_count, 2);
	assert_int_equal(one->trunk[1], 20);
	assert_int_equal(one->native, 1);
	assert_true(one->isolated && one->check_mac);
	assert_int_equal(one->ipv4_count, 2);
	assert_int_equal(one->ipv4_addresses[1], htonl(0x0a000210));
	assert_int_equal(one->sidecore, 0);
	assert_int_equal(one->memory_max_bytes, 2ULL << 30);
	assert_int_equal(config->interfaces[1].vlan, 7);
	assert_int_equal(config->disks[0].backend->size_bytes, 1 << 20);
	assert_false(config->disks[0].backend->direct);
	assert_true(config->disks[0].backend->handover);
	assert_true(config->disks[0].read_only);
	config_free(config);

	config = load(BACKEND("type: nbd, uri: \"nbd://h/\", timeout: 3600s"));
	assert_int_equal(config->disks[0].backend->timeout_ms, 3600000);
	config_free(config);

	/* Any number of readers. */
	config_free(load(BACKEND("type: file, path: /x.img, size: 1M") "    read_only: true\n"
			 "  - name: e\n    socket: e.sock\n    read_only: true\n"
			 "    backend: { type: file, path: /x.img, size: 1M }\n"));
}

/* Emulated devices: what is left out, what is given, and namespaces before and after their controller. */
static void test_models(void **state)
{
	struct config *config = load(
		HEAD "interfaces:\n"
		     "  - { name: a, network: lan, socket: /a }\n"
		     "  - { name: b, network: lan, socket: /b, model: igb, mode: server, vlan: 7, memory_max: 1G,\n"
		     "      receive_coalescing: true }\n"
		     "  - { name: c, network: lan, socket: /c, model: e1000e, doorbells: posted }\n"
		     "  - { name: d, network: lan, socket: /d, model: e1000, isolated: true, sidecore: 0 }\n"
		     "  - { name: e, network: lan, socket: /e, model: e1000, doorbells: mapped }\n"
		     "disks:\n"
		     "  - { name: first, controller: ctl, backend: { type: null, size: 1M } }\n"
		     "  - { name: ctl, socket: /ctl, model: nvme, backend: { type: null, size: 1M } }\n"
		     "  - { name: last, controller: ctl, model: nvme, block_size: 4096, read_only: true,\n"
		     "      backend: { type: null, size: 1M } }\n"
		     "  - { name: own, socket: /own, model: nvme, queues: 64, queue_size: 4096, doorbells: posted, serial: s,\n"
		     "      backend: { type: ram, size: 1M } }\n"
		     "  - { name: v, socket: /v, backend: { type: ram, size: 1M } }\n");

	assert_int_equal(config->interfaces[0].model, CONFIG_NIC_VIRTIO);
	assert_int_equal(config->interfaces[1].model, CONFIG_NIC_IGB);
	assert_int_equal(config->interfaces[1].doorbells, CONFIG_DOORBELLS_MAPPED);
	assert_true(config->interfaces[1].receive_coalescing);
	assert_false(config->interfaces[2].receive_coalescing);
	assert_int_equal(config->interfaces[1].memory_max_bytes, 1 << 30);
	assert_int_equal(config->interfaces[2].model, CONFIG_NIC_E1000E);
	assert_int_equal(config->interfaces[2].doorbells, CONFIG_DOORBELLS_POSTED);
	assert_int_equal(config->interfaces[3].model, CONFIG_NIC_E1000);
	assert_int_equal(config->interfaces[3].doorbells, CONFIG_DOORBELLS_POSTED);
	assert_int_equal(config->interfaces[4].doorbells, CONFIG_DOORBELLS_MAPPED);
	assert_string_equal(config_nic_model_name(CONFIG_NIC_E1000E), "e1000e");
	assert_string_equal(config_disk_model_name(CONFIG_DISK_NVME), "nvme");

	assert_int_equal(config->disks[0].controller_index, 1);
	assert_int_equal(config->disks[0].model, CONFIG_DISK_NVME);
	assert_null(config->disks[0].socket);
	assert_int_equal(config->disks[1].controller_index, -1);
	assert_int_equal(config->disks[1].queues, 16);
	assert_int_equal(config->disks[2].controller_index, 1);
	assert_int_equal(config->disks[2].block_size, 4096);
	assert_int_equal(config->disks[3].queues, 64);
	assert_int_equal(config->disks[3].doorbells, CONFIG_DOORBELLS_POSTED);
	assert_int_equal(config->disks[4].model, CONFIG_DISK_VIRTIO);
	assert_int_equal(config->disks[4].controller_index, -1);
	assert_int_equal(config->disks[4].queues, 1);
	config_free(config);
}

/* 64 namespaces fit, the controller's own included. */
static void test_most_namespaces(void **state)
{
	struct config *config;
	char *text = NULL, *error;
	size_t size;
	FILE *stream = open_memstream(&text, &size);

	fputs(HEAD "disks:\n  - { name: c, socket: /c, model: nvme, backend: { type: null, size: 1M } }\n", stream);
	for (unsigned i = 2; i <= 64; i++)
		fprintf(stream, "  - { name: n%u, controller: c, backend: { type: null, size: 1M } }\n", i);
	fflush(stream);
	config_free(load(text));
	fputs("  - { name: more, controller: c, backend: { type: null, size: 1M } }\n", stream);
	fclose(stream);
	assert_int_equal(config_load_text("x.yaml", text, &config, &error), -EINVAL);
	assert_string_equal(error, "x.yaml:69: c has 64 namespaces already, which is the most; use another controller");
	free(error);
	free(text);
}

static void test_files(void **state)
{
	struct config *config;
	char folder[] = "/tmp/config_test_XXXXXX", path[64], socket[64], *error;
	FILE *file;

	assert_int_equal(config_load("/nowhere/x.yaml", &config, &error), -ENOENT);
	assert_string_equal(error, "/nowhere/x.yaml: No such file or directory; check the name; sidecore.yaml(5) has an "
				   "example to start from");
	free(error);
	assert_non_null(mkdtemp(folder));
	assert_int_equal(config_load(folder, &config, &error), -EIO);
	free(error);

	/* Relative paths start at the file, wherever the process is. */
	snprintf(path, sizeof(path), "%s/x.yaml", folder);
	snprintf(socket, sizeof(socket), "%s/a.sock", folder);
	file = fopen(path, "w");
	assert_non_null(file);
	fputs(NIC, file);
	fclose(file);
	assert_int_equal(config_load(path, &config, &error), 0);
	assert_string_equal(config->interfaces[0].socket, socket);
	config_free(config);

	file = fopen(path, "w");
	fwrite("a: b\0c", 1, 6, file);
	fclose(file);
	assert_int_equal(config_load(path, &config, &error), -EINVAL);
	free(error);
	unlink(path);
	rmdir(folder);
}

static void test_values(void **state)
{
	static const struct {
		const char *text;
		int result;
		uint64_t value;
	} sizes[] = {
		{ "0", 0, 0 }, { "4096", 0, 4096 }, { "64K", 0, 65536 }, { "1MiB", 0, 1 << 20 }, { "3T", 0, 3ULL << 40 },
		{ "16777216T", -ERANGE, 0 }, { "99999999999999999999", -ERANGE, 0 }, { "", -EINVAL, 0 }, { "-1", -EINVAL, 0 },
		{ " 1", -EINVAL, 0 }, { "1 M", -EINVAL, 0 }, { "1m", -EINVAL, 0 }, { "M", -EINVAL, 0 },
	}, durations[] = {
		{ "0", 0, 0 }, { "1ns", 0, 1 }, { "50us", 0, 50000 }, { "2s", 0, 2 * NANOSECONDS_PER_SECOND },
		{ "50", -EINVAL, 0 }, { "1h", -EINVAL, 0 }, { "99999999999999s", -ERANGE, 0 },
	};
	uint8_t mac[6], other[6];

	for (size_t i = 0; i < array_size(sizes); i++) {
		uint64_t value = 0;

		assert_int_equal(config_parse_size(sizes[i].text, &value), sizes[i].result);
		if (!sizes[i].result)
			assert_int_equal(value, sizes[i].value);
	}
	for (size_t i = 0; i < array_size(durations); i++) {
		uint64_t value = 0;

		assert_int_equal(config_parse_duration(durations[i].text, &value), durations[i].result);
		if (!durations[i].result)
			assert_int_equal(value, durations[i].value);
	}
	assert_int_equal(config_parse_mac("00:00:00:00:00:00", mac), -EINVAL);
	assert_int_equal(config_parse_mac("52:54:00:00:00:01:", mac), -EINVAL);
	assert_int_equal(config_parse_mac("52:54:00:00:00:0", mac), -EINVAL);
	assert_int_equal(config_parse_mac("", mac), -EINVAL);

	/* Stable for ever: a guest must find its card again after an upgrade. */
	config_derive_mac("web-net", mac);
	assert_memory_equal(mac, ((uint8_t[]){ 0x76, 0xc6, 0x55, 0xa4, 0x63, 0x91 }), 6);
	config_derive_mac("web-net2", other);
	assert_memory_not_equal(mac, other, 6);
	for (char name[] = "a"; name[0] <= 'z'; name[0]++) {
		config_derive_mac(name, mac);
		assert_int_equal(mac[0] & 3, 2);
	}
}

static void test_suggest(void **state)
{
	static const char *const words[] = { "serve", "run", "status", "bench" };

	assert_string_equal(suggest("sevre", words, 4), "serve");
	assert_null(suggest("st", words, 4));
	assert_string_equal(suggest("statsu", words, 4), "status");
	assert_null(suggest("frobnicate", words, 4));
	assert_int_equal(suggest_distance("", "abc"), 3);
	assert_int_equal(suggest_distance("abcd", "abdc"), 1);
	assert_int_equal(suggest_distance(LONG LONG, LONG), 0); /* both cut at the same place */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_bad),	   cmocka_unit_test(test_bad_local), cmocka_unit_test(test_defaults),
		cmocka_unit_test(test_everything), cmocka_unit_test(test_models), cmocka_unit_test(test_most_namespaces), cmocka_unit_test(test_files),     cmocka_unit_test(test_values),
		cmocka_unit_test(test_suggest),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
