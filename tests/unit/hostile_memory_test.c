/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A guest that changes its memory while it is read.
 *
 * Theory of operation
 * -------------------
 * One running sidecore serves a hostile guest and honest neighbours. The hostile guest's driver offers chains, good and
 * bad, while a thread of its own flips bytes and words of its memory as fast as it can: descriptors, indirect tables,
 * indices, headers, offload fields, payload. So whatever is read twice is read differently sooner or later, under the
 * sanitizers (AddressSanitizer build). ThreadSanitizer has nothing to say here: these races are the guest's own.
 *
 * Meanwhile the neighbours work, and what they get is checked byte by byte: frames from one honest card to another, on
 * the hostile one's switch; blocks written to and read from a disk of their own. In the end
 * - nothing has crashed, and every queue of the hostile guest that broke did so for a reason with a name;
 * - each was as good as new after a reset: it was started again, often;
 * - the neighbours' queues are intact, their data too, and they have come forward.
 */
#include "test.h"

#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../fuzz/fuzz_guest.h"
#include "base/clock.h"
#include "block_fixture.h"
#include "client/virtqueue_driver.h"
#include "device/virtio_blk.h"
#include "device/virtio_net_internal.h"
#include "net_fixture.h"

/* Its macros have the names of the enum in virtio_net_header.h. */
#include <linux/virtio_blk.h>

#define DURATION    (3 * NANOSECONDS_PER_SECOND)
#define PATIENCE    (60 * NANOSECONDS_PER_SECOND)
#define HONEST_SIZE (4U << 20)
#define HONEST_BASE 0x1000000ULL
#define HONEST_RING 128U
#define FRAME_SIZE  1012U /* with virtio-net's header */
#define NET_HEADER  12U
#define BLOCK_SIZE  4096U
#define BLOCKS	    64U
#define HOSTILE_MAX 3U /* queues */

static struct block_fixture host;
static uint64_t seed = 1;

/* ---- the hostile guest ------------------------------------------------------------------------------------------- */

struct hostile {
	struct guest guest;
	struct virtio_device *device;
	struct guest_queue drivers[HOSTILE_MAX];
	unsigned queues;
	pthread_t mutator;
	atomic_bool stop;
	unsigned restarts;
	unsigned reasons[VIRTQUEUE_BREAK_REASONS];
};

/* Most flips go where rings and tables are, and where the data begins (headers). */
static void *mutate(void *context)
{
	struct hostile *hostile = context;
	uint64_t state = 42;

	while (!atomic_load_explicit(&hostile->stop, memory_order_relaxed)) {
		for (unsigned i = 0; i < 200; i++) {
			uint32_t random = test_random(&state), where = test_random(&state) % GUEST_FILE_SIZE;
			uint8_t *byte;

			if (random & 0x300)
				where %= GUEST_DATA + 0x800;
			byte = hostile->guest.bytes + where;
			switch (random & 3) {
			case 0:
				__atomic_fetch_xor(byte, (uint8_t)(1U << (random >> 4 & 7)), __ATOMIC_RELAXED);
				break;
			case 1:
				__atomic_store_n(byte, (uint8_t)(random >> 16), __ATOMIC_RELAXED);
				break;
			case 2:
				__atomic_store_n((uint16_t *)(void *)(byte - where % 2), (uint16_t)(random >> 16),
						 __ATOMIC_RELAXED);
				break;
			default: /* and back at once, so that most chains are good most of the time */
				__atomic_fetch_xor((uint32_t *)(void *)(byte - where % 4), 0x80000001U,
						   __ATOMIC_RELAXED);
				__atomic_fetch_xor((uint32_t *)(void *)(byte - where % 4), 0x80000001U,
						   __ATOMIC_RELAXED);
			}
		}
		sched_yield();
	}
	return NULL;
}

static void set_flag(struct virtio_queue *queue, uint32_t base, void *context)
{
	*(bool *)context = true;
}

static void stop_queue(struct virtio_queue *queue)
{
	bool stopped = false;

	virtio_queue_stop(queue, set_flag, &stopped);
	block_fixture_wait_flag(&host, &stopped);
}

static void hostile_start_queues(struct hostile *hostile)
{
	uint8_t form = (uint8_t)test_random(&seed);
	struct virtqueue_config config;

	assert_int_equal(hostile->device->ops->features_acked(hostile->device, hostile->device->features), 0);
	/* The mutator goes on, so the rings begin as anything; indices at least are where the device is told. */
	guest_clear(&hostile->guest);
	for (unsigned i = 0; i < hostile->queues; i++) {
		guest_queue_init(&hostile->drivers[i], &hostile->guest, i, form);
		guest_queue_config(&hostile->drivers[i], &config);
		config.indirect = true;
		assert_int_equal(virtio_queue_start(&hostile->device->queues[i], &config, -1), 0);
	}
}

static void hostile_stop_queues(struct hostile *hostile)
{
	for (unsigned i = 0; i < hostile->queues; i++) {
		unsigned reason = hostile->device->queues[i].ring.broken;

		assert_true(reason < VIRTQUEUE_BREAK_REASONS);
		assert_non_null(virtqueue_break_reason_name(reason));
		hostile->reasons[reason]++;
		stop_queue(&hostile->device->queues[i]);
	}
}

/* The driver resets its device once some queue of it has broken. */
static void hostile_restart_if_broken(struct hostile *hostile)
{
	for (unsigned i = 0; i < hostile->queues; i++) {
		if (!__atomic_load_n(&hostile->device->queues[i].ring.broken, __ATOMIC_RELAXED))
			continue;
		hostile_stop_queues(hostile);
		hostile->device->ops->reset(hostile->device);
		hostile_start_queues(hostile);
		hostile->restarts++;
		return;
	}
}

static void hostile_begin(struct hostile *hostile, struct virtio_device *device, unsigned queues)
{
	memset(hostile, 0, sizeof(*hostile));
	guest_open(&hostile->guest);
	hostile->device = device;
	hostile->queues = queues;
	hostile_start_queues(hostile);
	assert_int_equal(pthread_create(&hostile->mutator, NULL, mutate, hostile), 0);
}

static void hostile_end(struct hostile *hostile)
{
	unsigned named = 0;

	atomic_store(&hostile->stop, true);
	pthread_join(hostile->mutator, NULL);
	hostile_stop_queues(hostile);
	for (unsigned i = 1; i < VIRTQUEUE_BREAK_REASONS; i++) {
		if (hostile->reasons[i])
			print_message("%s: %u times\n", virtqueue_break_reason_name(i), hostile->reasons[i]);
		named += hostile->reasons[i] != 0;
	}
	print_message("%u resets\n", hostile->restarts);
	assert_true(hostile->restarts > 10 && named > 3);
	guest_memory_free(hostile->guest.memory);
	munmap(hostile->guest.bytes, GUEST_FILE_SIZE);
	close(hostile->guest.fd);
}

/* Any chain: bytes of chance are the input of the fuzz targets' driver. */
static void offer_any(struct guest_queue *driver)
{
	uint32_t chance[64];
	struct fuzz_input input = { (const uint8_t *)chance, sizeof(chance) };

	for (unsigned i = 0; i < array_size(chance); i++)
		chance[i] = test_random(&seed);
	guest_queue_offer(driver, &input);
}

/* ---- honest guests ----------------------------------------------------------------------------------------------- */

struct honest {
	int fd;
	uint8_t *bytes;
	struct guest_memory *memory;
	uint32_t used;
};

static void honest_open(struct honest *honest)
{
	struct guest_memory *empty = guest_memory_create();
	struct guest_region *region;

	honest->fd = memfd_create("honest", MFD_CLOEXEC);
	assert_int_equal(ftruncate(honest->fd, HONEST_SIZE), 0);
	honest->bytes = mmap(NULL, HONEST_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, honest->fd, 0);
	assert_ptr_not_equal(honest->bytes, MAP_FAILED);
	assert_int_equal(guest_region_map(honest->fd, 0, HONEST_BASE, HONEST_SIZE, HONEST_BASE, &region), 0);
	assert_int_equal(guest_memory_with(empty, region, &honest->memory), 0);
	guest_region_put(region);
	guest_memory_free(empty);
	honest->used = 0;
}

static void honest_close(struct honest *honest)
{
	guest_memory_free(honest->memory);
	munmap(honest->bytes, HONEST_SIZE);
	close(honest->fd);
}

static uint8_t *honest_allocate(struct honest *honest, size_t size)
{
	uint8_t *at = honest->bytes + honest->used;

	honest->used += (uint32_t)((size + 4095) & ~4095UL);
	assert_true(honest->used <= HONEST_SIZE);
	return at;
}

static uint64_t address_of(const struct honest *honest, const uint8_t *bytes)
{
	return HONEST_BASE + (uint64_t)(bytes - honest->bytes);
}

static guest_byte *host_address(const struct honest *honest, const void *bytes)
{
	return honest->memory->regions[0]->host + ((const uint8_t *)bytes - honest->bytes);
}

static void honest_start(struct honest *honest, struct virtqueue_driver *driver, uint16_t segments,
			 struct virtio_queue *queue)
{
	const struct virtqueue_driver_options options = { .size = HONEST_RING, .segments = segments };
	struct virtqueue_config config = { .memory = honest->memory, .size = HONEST_RING, .call_fd = -1 };
	uint8_t *ring = honest_allocate(honest, virtqueue_driver_memory_size(&options));

	assert_int_equal(virtqueue_driver_init(driver, &options, ring, address_of(honest, ring)), 0);
	config.descriptors = host_address(honest, virtqueue_driver_descriptor_area(driver));
	config.driver_area = host_address(honest, virtqueue_driver_driver_area(driver));
	config.device_area = host_address(honest, virtqueue_driver_device_area(driver));
	assert_int_equal(virtio_queue_start(queue, &config, -1), 0);
}

static uint8_t pattern(uint32_t number, uint32_t place)
{
	return (uint8_t)((number * 2654435761U >> 13) + place * 7);
}

/* ---- cards ------------------------------------------------------------------------------------------------------- */

static const uint8_t macs[3][6] = { { 2, 0, 0, 0, 0, 1 }, { 2, 0, 0, 0, 0, 2 }, { 2, 0, 0, 0, 0, 3 } };

struct link {
	struct honest sender, receiver;
	struct virtqueue_driver transmit, receive;
	uint8_t *sent, *got;
	uint32_t next, last, frames, strangers;
	unsigned parts; /* buffers that still belong to the last frame (VIRTIO_NET_F_MRG_RXBUF) */
};

static void send_frames(struct link *link)
{
	struct driver_buffer buffers[16];
	int count = virtqueue_driver_take(&link->transmit, buffers, array_size(buffers));

	assert_true(count >= 0);
	for (int i = 0; i < count; i++) {
		uint8_t *frame = link->sent + buffers[i].id * 2048 + NET_HEADER;
		uint32_t number = link->next++;

		memcpy(frame, macs[2], 6);
		memcpy(frame + 6, macs[1], 6);
		memcpy(frame + 12, "\x88\xb5", 2);
		memcpy(frame + 14, &number, 4);
		for (uint32_t at = 18; at < FRAME_SIZE - NET_HEADER; at++)
			frame[at] = pattern(number, at);
	}
	virtqueue_driver_add(&link->transmit, buffers, (unsigned)count);
	virtqueue_driver_publish(&link->transmit);
}

static void check_frame(struct link *link, const uint8_t *frame, uint32_t length)
{
	struct virtio_net_header header;
	uint32_t number;

	if (link->parts) {
		link->parts--;
		return;
	}
	assert_true(length >= NET_HEADER + 14);
	memcpy(&header, frame, sizeof(header));
	assert_true(header.num_buffers >= 1);
	link->parts = header.num_buffers - 1U;
	frame += NET_HEADER;
	if (memcmp(frame + 6, macs[1], 6) != 0) {
		assert_memory_equal(frame + 6, macs[0],
				    6); /* the hostile card may send, but not under another's name */
		link->strangers++;
		return;
	}
	assert_int_equal(length, FRAME_SIZE);
	memcpy(&number, frame + 14, 4);
	assert_true(!link->frames || number > link->last);
	for (uint32_t at = 18; at < FRAME_SIZE - NET_HEADER; at++)
		assert_int_equal(frame[at], pattern(number, at));
	link->last = number;
	link->frames++;
}

static void receive_frames(struct link *link)
{
	struct driver_buffer buffers[32];
	int count = virtqueue_driver_take(&link->receive, buffers, array_size(buffers));

	assert_true(count >= 0);
	for (int i = 0; i < count; i++)
		check_frame(link, link->got + buffers[i].id * 2048, buffers[i].length);
	virtqueue_driver_add(&link->receive, buffers, (unsigned)count);
	virtqueue_driver_publish(&link->receive);
}

static void start_link(struct link *link, struct virtio_device *const *nics)
{
	struct driver_buffer buffer = { 0 };

	memset(link, 0, sizeof(*link));
	honest_open(&link->sender);
	honest_open(&link->receiver);
	honest_start(&link->sender, &link->transmit, 1, &nics[1]->queues[1]);
	honest_start(&link->receiver, &link->receive, 1, &nics[2]->queues[0]);
	link->sent = honest_allocate(&link->sender, HONEST_RING * 2048);
	link->got = honest_allocate(&link->receiver, HONEST_RING * 2048);
	for (buffer.id = 0; buffer.id < HONEST_RING; buffer.id++) {
		virtqueue_driver_set_segment(&link->transmit, buffer.id, 0,
					     address_of(&link->sender, link->sent + buffer.id * 2048), FRAME_SIZE,
					     false);
		virtqueue_driver_set_segment(&link->receive, buffer.id, 0,
					     address_of(&link->receiver, link->got + buffer.id * 2048), 2048, true);
		virtqueue_driver_add(&link->receive, &buffer, 1);
	}
	virtqueue_driver_publish(&link->receive);
	/* From here on what comes back is sent again; these few are no frames of ours and too short to be delivered. */
	for (buffer.id = 0; buffer.id < HONEST_RING / 2; buffer.id++)
		virtqueue_driver_add(&link->transmit, &buffer, 1);
	virtqueue_driver_publish(&link->transmit);
}

/* A frame to one of the neighbours whose offload state asks for everything; the mutator does the rest. */
static void send_hostile_frame(struct guest_queue *driver)
{
	static const uint8_t kinds[] = { 0, VIRTIO_NET_HDR_GSO_TCPV4, VIRTIO_NET_HDR_GSO_TCPV6,
					 VIRTIO_NET_HDR_GSO_UDP_L4, VIRTIO_NET_HDR_GSO_UDP };
	uint8_t *bytes = driver->guest->bytes + GUEST_DATA, *frame = bytes + NET_HEADER;
	uint32_t random = test_random(&seed), length = 60 + (random & 1 ? random >> 8 & 0x3fff : 0);
	bool tcp = random & 2;
	const struct virtio_net_header header = { .flags = 1,
						  .gso_type = tcp ? kinds[random >> 4 & 1] : kinds[random >> 4 & 4],
						  .gso_size = (uint16_t)(random >> 16 & 0x7ff),
						  .csum_start = 34,
						  .csum_offset = tcp ? 16 : 6 };
	struct guest_buffer buffers[3] = {
		{ GUEST_LOW + GUEST_DATA, NET_HEADER, false },
		{ GUEST_LOW + GUEST_DATA + NET_HEADER, 40, false },
		{ GUEST_LOW + GUEST_DATA + NET_HEADER + 40, length, false },
	};

	memcpy(bytes, &header, sizeof(header));
	memcpy(frame, macs[1 + (random >> 3 & 1)], 6);
	memcpy(frame + 6, macs[0], 6);
	memcpy(frame + 12, "\x08\0\x45\0\0\0\0\1\0\0\x40", 11);
	frame[23] = tcp ? 6 : 17;
	frame[46] = 0x50;
	guest_queue_add(driver, buffers, 3, random & 0x20);
}

static void note_gone(struct engine_completion *completion)
{
	completion->next = completion;
}

static void destroy_nic(struct virtio_device *device)
{
	struct engine_completion gone = { .done = note_gone };

	virtio_net_destroy(device, &gone);
	while (gone.next != &gone)
		engine_run_completions(host.engine);
}

static void neighbours_of_a_hostile_card(void **state)
{
	struct network *network = network_create(&(struct network_config){ .name = "net" });
	struct network_worker *worker = network_worker_create();
	uint64_t features = 1ULL << VIRTIO_F_VERSION_1 | 1ULL << VIRTIO_NET_F_MRG_RXBUF;
	struct virtio_device *nics[3];
	static struct hostile hostile;
	static struct link link;
	uint64_t start;

	block_fixture_start(&host);
	sidecore_set_slot(host.sidecore, SIDECORE_SLOT_NET, worker);
	for (unsigned i = 0; i < 3; i++) {
		struct virtio_net_config_options options = {
			.name = "nic", .queue_pairs = 1, .sidecore = -1, .check_mac = true
		};

		memcpy(options.mac, macs[i], 6);
		/* The hostile driver makes rings of both layouts; the control queue is left to the fuzz target. */
		options.features_off = 1ULL << VIRTIO_NET_F_CTRL_VQ;
		assert_int_equal(virtio_net_create(&options, host.engine, network, &nics[i]), 0);
		if (i)
			assert_int_equal(nics[i]->ops->features_acked(nics[i], features), 0);
	}
	start_link(&link, nics);
	hostile_begin(&hostile, nics[0], 2);

	start = clock_nanoseconds();
	while (clock_nanoseconds() - start < DURATION ||
	       (clock_nanoseconds() - start < PATIENCE && (link.frames < 100 || hostile.restarts <= 10))) {
		for (unsigned i = 0; i < 4; i++)
			send_hostile_frame(&hostile.drivers[1]);
		offer_any(&hostile.drivers[test_random(&seed) & 1]);
		send_frames(&link);
		receive_frames(&link);
		hostile_restart_if_broken(&hostile);
		engine_run_completions(host.engine);
	}
	hostile_end(&hostile);
	print_message("%u frames of the neighbour, %u of the hostile card\n", link.frames, link.strangers);
	assert_true(link.frames >= 100);
	for (unsigned i = 1; i < 3; i++) {
		assert_int_equal(nics[i]->queues[i & 1].ring.broken, VIRTQUEUE_INTACT);
		stop_queue(&nics[i]->queues[i & 1]);
	}
	for (unsigned i = 0; i < 3; i++)
		destroy_nic(nics[i]);
	block_fixture_stop(&host);
	virtqueue_driver_release(&link.transmit);
	virtqueue_driver_release(&link.receive);
	honest_close(&link.sender);
	honest_close(&link.receiver);
	network_worker_destroy(worker);
	network_destroy(network);
}

/* ---- disks ------------------------------------------------------------------------------------------------------- */

/* The honest guest's disk: buffer 2n writes and buffer 2n + 1 reads; one of them at a time. */
struct store {
	struct honest honest;
	struct virtqueue_driver driver;
	uint8_t *headers, *data, *status;
	uint32_t versions[BLOCKS]; /* of each block: what was written last */
	uint32_t next, checked;
	bool writing;
	uint32_t block;
};

static void submit_block(struct store *store)
{
	struct driver_buffer buffer = { .id = store->writing ? 0 : 1 };
	struct virtio_blk_outhdr header = { .type = store->writing ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN };
	uint8_t *data = store->data + buffer.id * BLOCK_SIZE;

	if (store->writing) {
		store->block = test_random(&seed) % BLOCKS;
		store->versions[store->block] = ++store->next;
		for (uint32_t at = 0; at < BLOCK_SIZE; at++)
			data[at] = pattern(store->next, at);
	} else {
		store->block = test_random(&seed) % BLOCKS;
		memset(data, 0x5a, BLOCK_SIZE);
	}
	header.sector = store->block * (BLOCK_SIZE / 512);
	memcpy(store->headers + buffer.id * 16, &header, sizeof(header));
	store->status[buffer.id] = 0xee;
	virtqueue_driver_add(&store->driver, &buffer, 1);
	virtqueue_driver_publish(&store->driver);
}

static void turn_store(struct store *store)
{
	struct driver_buffer buffer;
	int count = virtqueue_driver_take(&store->driver, &buffer, 1);
	uint32_t version;

	assert_true(count >= 0);
	if (!count)
		return;
	assert_int_equal(store->status[buffer.id], VIRTIO_BLK_S_OK);
	version = store->versions[store->block];
	if (!store->writing) {
		assert_int_equal(buffer.length, BLOCK_SIZE + 1);
		for (uint32_t at = 0; at < BLOCK_SIZE; at++)
			assert_int_equal(store->data[BLOCK_SIZE + at], version ? pattern(version, at) : 0);
		store->checked++;
	}
	store->writing = !store->writing;
	submit_block(store);
}

static void start_store(struct store *store, struct virtio_device *device)
{
	memset(store, 0, sizeof(*store));
	honest_open(&store->honest);
	honest_start(&store->honest, &store->driver, 3, &device->queues[0]);
	store->headers = honest_allocate(&store->honest, 4096);
	store->data = honest_allocate(&store->honest, 2 * BLOCK_SIZE);
	store->status = honest_allocate(&store->honest, 4096);
	for (unsigned i = 0; i < 2; i++) {
		virtqueue_driver_set_segment(&store->driver, i, 0, address_of(&store->honest, store->headers + 16 * i),
					     16, false);
		virtqueue_driver_set_segment(&store->driver, i, 1,
					     address_of(&store->honest, store->data + BLOCK_SIZE * i), BLOCK_SIZE,
					     i == 1);
		virtqueue_driver_set_segment(&store->driver, i, 2, address_of(&store->honest, store->status + i), 1,
					     true);
	}
	store->writing = true;
	submit_block(store);
}

static void send_hostile_request(struct guest_queue *driver)
{
	static const uint32_t types[] = { VIRTIO_BLK_T_IN,	VIRTIO_BLK_T_OUT,
					  VIRTIO_BLK_T_OUT,	VIRTIO_BLK_T_GET_ID,
					  VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES,
					  VIRTIO_BLK_T_FLUSH,	99 };
	uint32_t random = test_random(&seed), place = GUEST_DATA + (random >> 8 & 7) * 64;
	const struct virtio_blk_outhdr header = { .type = types[random & 7], .sector = random >> 16 & 0x3f };
	bool reads = header.type == VIRTIO_BLK_T_IN || header.type == VIRTIO_BLK_T_GET_ID;
	struct guest_buffer buffers[4] = {
		{ GUEST_LOW + place, 16, false },
		{ GUEST_LOW + GUEST_DATA + 0x800, header.type & 1 && header.type > 8 ? 16 : 512, reads },
		{ GUEST_SEAM - 256, 512, reads },
		{ GUEST_LOW + place + 32, 1, true },
	};

	memcpy(driver->guest->bytes + place, &header, sizeof(header));
	guest_queue_add(driver, buffers, 4, random & 0x20);
}

static void neighbours_of_a_hostile_disk(void **state)
{
	const struct disk_config configs[2] = {
		{ .name = "hostile", .type = DISK_RAM, .size = 1 << 20 },
		{ .name = "honest", .type = DISK_RAM, .size = BLOCKS * BLOCK_SIZE },
	};
	const struct virtio_blk_options options = { .name = "disk", .sidecore = -1 };
	struct virtio_device *devices[2];
	static struct hostile hostile;
	static struct store store;
	struct disk *disks[2];
	const char *error;
	uint64_t start;

	block_fixture_start(&host);
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(disk_open(&configs[i], host.engine, &disks[i], &error), 0);
		assert_int_equal(virtio_blk_create(&options, host.engine, disks[i], &devices[i]), 0);
	}
	assert_int_equal(devices[1]->ops->features_acked(devices[1], 1ULL << VIRTIO_F_VERSION_1), 0);
	start_store(&store, devices[1]);
	hostile_begin(&hostile, devices[0], 1);

	start = clock_nanoseconds();
	while (clock_nanoseconds() - start < DURATION ||
	       (clock_nanoseconds() - start < PATIENCE && (store.checked < 100 || hostile.restarts <= 10))) {
		for (unsigned i = 0; i < 8; i++)
			send_hostile_request(&hostile.drivers[0]);
		offer_any(&hostile.drivers[0]);
		for (unsigned i = 0; i < 8; i++)
			turn_store(&store);
		hostile_restart_if_broken(&hostile);
		engine_run_completions(host.engine);
	}
	hostile_end(&hostile);
	print_message("%u blocks of the neighbour\n", store.checked);
	assert_true(store.checked >= 100);
	assert_int_equal(devices[1]->queues[0].ring.broken, VIRTQUEUE_INTACT);
	stop_queue(&devices[1]->queues[0]);
	for (unsigned i = 0; i < 2; i++) {
		virtio_blk_destroy(devices[i], NULL);
		disk_close(disks[i]);
	}
	block_fixture_stop(&host);
	virtqueue_driver_release(&store.driver);
	honest_close(&store.honest);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(neighbours_of_a_hostile_card),
		cmocka_unit_test(neighbours_of_a_hostile_disk),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
