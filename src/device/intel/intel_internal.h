/* SPDX-License-Identifier: BSD-3-Clause */
/* What the files of the Intel network cards share. Theory of operation: device/intel/intel_nic.c. */
#ifndef DEVICE_INTEL_INTEL_INTERNAL_H
#define DEVICE_INTEL_INTEL_INTERNAL_H

#include "base/checked.h"
#include "device/device_queue.h"
#include "device/intel/intel_nic.h"
#include "device/intel/intel_registers.h"
#include "device/intel/intel_statistics.h"
#include "memory/guest_access.h"

#define INTEL_QUEUES_MAX  16U
#define INTEL_VECTORS_MAX 25U

/** Bytes of a frame that are copied when they have to be changed: headers of a TCP segment, and a VLAN tag. */
#define INTEL_HEADERS_MAX 256U

/** Descriptors that are looked at in one go; no frame has more. Guest segments that they may come to. */
#define INTEL_DESCRIPTORS_MAX 256U
#define INTEL_SEGMENTS_MAX    (INTEL_DESCRIPTORS_MAX + 256U)

/** Receive descriptors that are written back together, and the most that one frame may fill. */
#define INTEL_WRITE_BACKS_MAX 128U

#define INTEL_EEPROM_WORDS 1024U

#define INTEL_VECTOR_BAR 0x4000U /* MSI-X table and pending bits */

/** enum intel_generation - what descriptors and interrupts look like. */
enum intel_generation {
	INTEL_8254X,
	INTEL_82574,
	INTEL_82576,
};

/** Registers that do more than to remember. */
typedef uint32_t (*intel_register_read)(struct intel_nic *nic, uint32_t offset);
typedef enum pci_result (*intel_register_write)(struct intel_nic *nic, uint32_t offset, uint32_t value);

/**
 * struct intel_register - trapped registers [@first, @last], of 4 bytes each.
 * @writable:	mask of the bits that are remembered; the others keep their value
 * @read, @write:	NULL: what is remembered. @write is given the value with only writable bits of the new one
 */
struct intel_register {
	uint32_t first, last;
	uint32_t writable;
	intel_register_read read;
	intel_register_write write;
};

/** struct intel_default - a register that is not zero after a reset. */
struct intel_default {
	uint32_t offset, value;
};

/** struct intel_variant - what is different; constant. */
struct intel_variant {
	enum intel_generation generation;
	const struct pci_device_ops *ops;
	struct pci_identity identity;
	struct pci_bar bars[PCI_BARS]; /* windows included */
	uint8_t io_bar;		       /* IOADDR and IODATA */
	uint8_t queues;		       /* of each direction */
	uint8_t vectors;	       /* causes that have one: EICR bits of 82576 */
	uint8_t addresses;	       /* exact unicast filters */
	uint32_t frame_max;	       /* bytes with LPE, tag included, FCS not */
	const struct intel_register *registers;
	uint16_t register_count;
	const struct intel_default *defaults;
	uint16_t default_count;
	/* EEPROM: how it is reached, and what is in it */
	uint32_t eecd;				   /* value after a reset */
	uint8_t eerd_start, eerd_done, eerd_shift; /* bits of EERD; shift of the address */
	bool microwire;
	const struct intel_default *words;
	uint16_t word_count;
	/* PHY */
	uint32_t phy_id;
	const struct intel_default *phy;
	uint16_t phy_count;
};

extern const struct intel_variant intel_82540, intel_82574, intel_82576;

/** struct intel_context - offload parameters as the last context descriptor said; all forms come to this one. */
struct intel_context {
	uint16_t ip_start, ip_field, ip_end; /* @..._end is the last byte; 0: the frame's */
	uint16_t l4_start, l4_field, l4_end;
	uint16_t header_length, mss;
	uint16_t tag; /* 82576 */
	bool ipv4, tcp, sctp;
};

#define INTEL_CONTEXTS 2U /* of each queue: 8254x: for checksums and for TSE; 82576: IDX */

struct intel_contexts {
	struct intel_context context[INTEL_CONTEXTS];
};

/**
 * struct intel_ring - a descriptor ring as it is used now. Transmit: the lane's. Receive: under the port's claim.
 * @descriptors:	NULL: not mapped; everything else then says where it goes on
 * @known:		@head is ours; else it is read from its register when the ring is taken up
 */
struct intel_ring {
	guest_byte *descriptors;
	const struct guest_region *hint;
	uint32_t registers; /* base offset */
	uint32_t base_low, base_high, length;
	uint32_t size; /* bytes of a descriptor */
	uint32_t count, head;
	bool known;

	/* transmit */
	bool waiting; /* for the rest of a frame, behind @waiting_tail */
	uint32_t waiting_tail;
	uint16_t segments_done;
	uint32_t cut_done; /* of the first frame, when it is one that intel_cut() cuts: segments that are sent */
	struct intel_contexts contexts;

	/* receive */
	uint32_t tail;
	uint8_t form; /* enum intel_receive_form */
	uint32_t buffer_sizes[4];
	unsigned run_length;		       /* of the last run: buffers that are taken at first */
	uint32_t written_first, written_count; /* descriptors that wait to be written back, one behind the other */
	bool used;			       /* since the last flush */
} __attribute__((aligned(CACHE_LINE)));

enum intel_receive_form {
	INTEL_RECEIVE_LEGACY,
	INTEL_RECEIVE_EXTENDED, /* 82574 */
	INTEL_RECEIVE_SPLIT,	/* 82574: up to four buffers */
	INTEL_RECEIVE_ADVANCED, /* 82576 */
	INTEL_RECEIVE_FORMS,
};

/** struct intel_write_back - a receive descriptor that is done. */
struct intel_write_back {
	uint64_t words[4];
};

struct intel_descriptor {
	uint64_t address;
	uint32_t command, status;
};

/** struct intel_plan - one unit of the transmit plan: a frame, or descriptors that make none. */
struct intel_plan {
	uint16_t end;	  /* descriptors from the ring's head to behind this unit */
	uint8_t drop;	  /* enum port_drop; PORT_DROPS: it is a frame */
	uint8_t frame;	  /* number of the frame; if dropped, or none: of the next one */
	uint8_t contexts; /* number of the contexts after it */
	bool segmented;
	bool empty; /* contexts only */
	bool cut;   /* to be cut by intel_cut(); the only unit of its plan */
};

/** struct intel_lane - polls transmit queues; lane 0 looks after registers that drivers write without telling, too. */
struct intel_lane {
	struct device_queue queue;
	struct intel_nic *nic;
	unsigned index;
	uint32_t active; /* queues that ran at the last look */
	uint32_t looks, next;
	struct intel_traffic traffic;

	/* scratch of a batch */
	struct frame frames[64];
	struct intel_plan plans[64];
	struct intel_contexts contexts[65];
	struct intel_descriptor descriptors[INTEL_DESCRIPTORS_MAX];
	struct guest_segment segments[INTEL_SEGMENTS_MAX];
	uint8_t headers[64][INTEL_HEADERS_MAX + 8];
	struct guest_segment cut_segments[2 * INTEL_SEGMENTS_MAX];
};

/** struct intel_timer - moderation, on each sidecore. */
struct intel_timer {
	struct engine_timer timer;
	struct sidecore_message cancel;
	struct intel_nic *nic;
};

/**
 * struct intel_interrupts - see intel_interrupt.c.
 * @legacy:	ICR, and in the upper half IMS. @extended: EICR and EIMS
 */
struct intel_interrupts {
	_Atomic uint64_t legacy, extended;
	atomic_uint deferred; /* causes of vectors that wait for their time */
	atomic_bool line_deferred;
	atomic_uint resting;  /* 82576: masked by themselves when they fired */
	atomic_uint suspects; /* of these: the re-arm may have been lost */
	_Atomic uint64_t suspects_since;
	atomic_uint shown_mask;			   /* what we put into EIMS for the driver to read */
	_Atomic uint64_t fired[INTEL_VECTORS_MAX]; /* clock; [0] is the line's, too */
	_Atomic uint64_t assertions;
};

/** struct intel_when - who does something, and when. @sidecore: NULL: the control thread */
struct intel_when {
	struct sidecore *sidecore;
	struct notifier *notifier;
	uint64_t now;
};

/** struct intel_eeprom - words, and the state of the serial line (8254x). */
struct intel_eeprom {
	uint16_t words[INTEL_EEPROM_WORDS];
	uint32_t shift_in;
	uint16_t shift_out;
	uint8_t bits_in, bits_out;
	bool clock, reading, write_enabled, output;
};

/** struct intel_rest - the operation that brings the card to rest and goes on from there; control thread. */
struct intel_rest {
	struct engine_completion completion;
	void (*then)(struct intel_nic *nic);
	unsigned lanes;
	atomic_uint timers;
	bool under_way;
	uint32_t offset, value; /* of the write that asked for it */
};

/**
 * struct intel_terms - what registers say, of what is received.
 * @length_max:		the longest frame without its check sequence: untagged, and with one tag
 * @check_sequence:	bytes of it that buffers have
 * @queue:		of frames that are not hashed
 */
struct intel_terms {
	uint32_t control, checksums, tag_type;
	uint32_t length_max[2];
	uint32_t check_sequence;
	unsigned queue;
	bool strips_tags, hashes, hash_reported, packet_types;
};

/**
 * struct intel_described - what the descriptor says of the last frame whose headers were looked into, and what others
 * have the same of which it says that, too.
 * @protocol:	of IPv4; INTEL_NO_PROTOCOL: there is no such frame
 * @verified:	the checksum behind the header was
 * @ports, @addresses:	for hashes
 * @form:	of the ring, when the words were made
 */
struct intel_described {
	uint32_t protocol;
	uint32_t ports;
	uint64_t addresses;
	bool verified;
	uint8_t form;
	uint64_t first_word, second_word; /* of the write-back, but for the length */
};

#define INTEL_NO_PROTOCOL 256U

/**
 * struct intel_habit - the last frame that was received, and registers as they were: others with its destination and
 * type pass the same filters for as long as these stay. Under the port's claim.
 * @version:	nic->version of all of it
 * @queue:	INTEL_QUEUES_MAX: there is none
 */
struct intel_habit {
	uint32_t version;
	struct intel_terms terms;
	unsigned queue;
	uint32_t destination_low; /* all three as in memory */
	uint16_t destination_high, type;
	struct intel_described last;
};

/**
 * struct intel_nic - the card.
 * @registers:	what is remembered of each trapped register; stored by the control thread, loaded by anybody, relaxed
 * @pages:	where ring registers and the like are: the window's memory, or @registers when nothing is offered for
 * mapping
 */
struct intel_nic {
	struct pci_device device;
	const struct intel_variant *variant;
	struct network *network;
	uint8_t mac[6];
	int sidecore;
	bool coalescing; /* options.coalescing; constant */
	uint32_t *registers;
	uint8_t *pages;
	uint32_t *vectors; /* memory of the MSI-X BAR; NULL: there is none */
	uint32_t io_address;

	/* control thread's */
	bool resting; /* paused by the transport */
	bool link;    /* the cable */
	struct intel_rest rest;
	struct intel_eeprom eeprom;
	uint16_t phy[32];
	uint64_t reset_at; /* clock: SYSTIM counts from there */
	struct intel_traffic received_base, sent_base, received_latch, sent_latch;
	uint64_t missed_base, assertions_base;
	struct engine_completion removal;
	struct engine_completion *removed;

	/* control thread writes, sidecores read */
	atomic_uint version; /* of @registers */
	atomic_bool transmitting, receiving, loopback;
	atomic_uint key_version; /* of RSSRK */

	struct intel_interrupts interrupts;
	unsigned lane_count;
	struct intel_lane *lanes;
	atomic_uint lanes_attached; /* bitmap; the control thread's */
	struct engine_completion attach;
	atomic_bool attach_posted;
	unsigned timer_count;
	struct intel_timer *timers;

	struct intel_ring transmit[INTEL_QUEUES_MAX];
	struct intel_ring receive[INTEL_QUEUES_MAX];

	/* under the port's claim */
	uint32_t touched;
	uint32_t hash_version;
	uint32_t hash_nibbles[72][16]; /* Toeplitz: of each nibble of the input */
	struct intel_traffic received;
	struct intel_habit habit;
	struct guest_segment segments[INTEL_SEGMENTS_MAX];
	struct intel_write_back written[INTEL_QUEUES_MAX][INTEL_WRITE_BACKS_MAX];

	struct port port;
};

static inline struct intel_nic *intel_nic_of(const struct pci_device *device)
{
	return container_of(device, struct intel_nic, device);
}

/** intel_load() - a trapped register as it is remembered; any thread. intel_store(): control thread. */
static inline uint32_t intel_load(const struct intel_nic *nic, uint32_t offset)
{
	return __atomic_load_n(&nic->registers[offset / 4], __ATOMIC_RELAXED);
}

static inline void intel_store(struct intel_nic *nic, uint32_t offset, uint32_t value)
{
	uint32_t version = atomic_load_explicit(&nic->version, memory_order_relaxed) + 1;

	__atomic_store_n(&nic->registers[offset / 4], value, __ATOMIC_RELAXED);
	/* Release: who sees the version sees the register. There is one writer. */
	atomic_store_explicit(&nic->version, version, memory_order_release);
}

/** intel_page_load() - a register of the pages that a guest may have mapped; any thread; hostile. */
static inline uint32_t intel_page_load(const struct intel_nic *nic, uint32_t offset)
{
	/* Acquire: what the driver stored before it rang (descriptors) is seen after this. */
	return __atomic_load_n((const uint32_t *)(const void *)(nic->pages + offset), __ATOMIC_ACQUIRE);
}

static inline void intel_page_store(struct intel_nic *nic, uint32_t offset, uint32_t value)
{
	__atomic_store_n((uint32_t *)(void *)(nic->pages + offset), value, __ATOMIC_RELEASE);
}

static inline uint32_t intel_page_exchange(struct intel_nic *nic, uint32_t offset, uint32_t value)
{
	return __atomic_exchange_n((uint32_t *)(void *)(nic->pages + offset), value, __ATOMIC_SEQ_CST);
}

static inline bool intel_faulted(const struct intel_nic *nic)
{
	return atomic_load_explicit(&nic->device.fault, memory_order_relaxed) != NULL;
}

/** intel_in_window() - is the register at @offset on a page that can be offered for mapping, or one of rings? */
bool intel_in_window(const struct intel_variant *variant, uint32_t offset);

/* intel_nic.c */

/** intel_nic_rest() - bring the card to rest, then call @then, which ends the operation. Return: PCI_DEFERRED. */
enum pci_result intel_nic_rest(struct intel_nic *nic, void (*then)(struct intel_nic *nic));

/** intel_nic_lanes_wanted() - any thread: bitmap of lanes that have queues which the driver has enabled; lane 0 always.
 */
unsigned intel_nic_lanes_wanted(const struct intel_nic *nic);

/** intel_nic_start() - run as far as registers, link and transport allow. */
void intel_nic_start(struct intel_nic *nic);

/** intel_nic_reset() - registers as after power-on, or after CTRL.RST (@soft: EEPROM and PHY stay); at rest. */
void intel_nic_reset(struct intel_nic *nic, bool soft);

/** intel_nic_link_up() - of the PHY and the cable, as STATUS says. */
bool intel_nic_link_up(const struct intel_nic *nic);

/** intel_when_control() - for the control thread. */
struct intel_when intel_when_control(const struct intel_nic *nic);

/** intel_nic_looked_after() - control thread: does lane 0 run? */
bool intel_nic_looked_after(const struct intel_nic *nic);

/** intel_nic_kick() - control thread: there is work for the lanes. */
void intel_nic_kick(struct intel_nic *nic);

/* intel_bar.c, intel_nic.c: the common operations of struct pci_device_ops */
uint32_t intel_bar_read(struct pci_device *device, unsigned bar, uint32_t offset, unsigned size);
enum pci_result intel_bar_write(struct pci_device *device, unsigned bar, uint32_t offset, unsigned size,
				uint32_t value);
void intel_bar_doorbell(struct pci_device *device, unsigned bar, uint32_t offset, unsigned size);
enum pci_result intel_op_pause(struct pci_device *device);
void intel_op_resume(struct pci_device *device);
enum pci_result intel_op_reset(struct pci_device *device);
void intel_op_command_changed(struct pci_device *device);

/* intel_state.c: the same */
void intel_save_state(struct pci_device *device, struct parcel *parcel);
int intel_load_state(struct pci_device *device, struct parcel *parcel);

#define INTEL_OPS(name)                                                                                                \
	{                                                                                                              \
		.type = (name), .read = intel_bar_read, .write = intel_bar_write, .doorbell = intel_bar_doorbell,      \
		.pause = intel_op_pause, .resume = intel_op_resume, .reset = intel_op_reset,                           \
		.command_changed = intel_op_command_changed, .save = intel_save_state, .load = intel_load_state,       \
	}

/* intel_ring.c */

/** intel_ring_registers() - offset of a ring's registers. */
uint32_t intel_ring_registers(const struct intel_nic *nic, bool receive, unsigned queue);

/**
 * intel_ring_ready() - its user, before each use: take the ring up as its registers say, if it is enabled.
 * @size:	bytes of a descriptor
 *
 * Return: false: not enabled, or it faulted.
 */
bool intel_ring_ready(struct intel_nic *nic, struct intel_ring *ring, unsigned size);

/** intel_rings_forget() - at rest: nothing of guest memory is remembered. @reset_...: nor where these rings were. */
void intel_rings_forget(struct intel_nic *nic, bool reset_transmit, bool reset_receive);

/* intel_transmit.c */
extern const struct poller_ops intel_lane_ops;

/* intel_receive.c */
extern const struct port_ops intel_port_ops;

/* intel_interrupt.c */

/** intel_raise() - any thread: causes of ICR that belong to no queue. */
void intel_raise(struct intel_nic *nic, const struct intel_when *when, uint32_t causes);

/** intel_raise_queue() - any thread: a queue has written descriptors back. @spacing: ns that the driver grants (TIDV,
 * RDTR) */
void intel_raise_queue(struct intel_nic *nic, const struct intel_when *when, bool receive, unsigned queue,
		       uint64_t spacing);

/** intel_interrupts_look() - lane 0: what the driver wrote to EIMS, EIMC, EICS; what waits for its time. */
void intel_interrupts_look(struct intel_nic *nic, const struct intel_when *when);

/** intel_interrupts_take() - what the driver wrote, only; any thread. Return: whether there was anything. */
bool intel_interrupts_take(struct intel_nic *nic, const struct intel_when *when);

/** intel_interrupts_waiting() - is anything there for intel_interrupts_look(), on @home? */
bool intel_interrupts_waiting(const struct intel_nic *nic, const struct sidecore *home);

void intel_interrupts_expire(struct sidecore *sidecore, struct engine_timer *timer);
void intel_interrupts_reset(struct intel_nic *nic);

/* intel_icr.c */
uint32_t intel_icr_read(struct intel_nic *nic, uint32_t offset);
enum pci_result intel_icr_write(struct intel_nic *nic, uint32_t offset, uint32_t value);
uint32_t intel_ims_read(struct intel_nic *nic, uint32_t offset);
enum pci_result intel_ims_write(struct intel_nic *nic, uint32_t offset, uint32_t value);
enum pci_result intel_imc_write(struct intel_nic *nic, uint32_t offset, uint32_t value);
enum pci_result intel_ics_write(struct intel_nic *nic, uint32_t offset, uint32_t value);

/* intel_eeprom.c */
void intel_eeprom_fill(struct intel_nic *nic);
uint32_t intel_eecd_read(struct intel_nic *nic, uint32_t offset);
enum pci_result intel_eecd_write(struct intel_nic *nic, uint32_t offset, uint32_t value);
enum pci_result intel_eerd_write(struct intel_nic *nic, uint32_t offset, uint32_t value);

/* intel_phy.c */
void intel_phy_reset(struct intel_nic *nic);
uint16_t intel_phy_read(struct intel_nic *nic, unsigned number);
enum pci_result intel_mdic_write(struct intel_nic *nic, uint32_t offset, uint32_t value);

/** intel_phy_loopback() - is what is sent to come back (MII control)? */
bool intel_phy_loopback(const struct intel_nic *nic);

#endif
