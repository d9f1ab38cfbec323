/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * One vfio-user connection: the session's state, shared by the handlers of its messages. Theory of operation:
 * transport/vfio_user/connection.c.
 *
 * Context: control thread.
 */
#ifndef TRANSPORT_VFIO_USER_CONNECTION_H
#define TRANSPORT_VFIO_USER_CONNECTION_H

#include <stdbool.h>
#include <stdint.h>

#include "device/pci/pci_device.h"
#include "memory/guest_memory.h"
#include "transport/vfio_user/message.h"
#include "transport/vfio_user/messages.h"

struct disposal;
struct event;
struct event_base;
struct parcel;

/** The most DMA mappings of a session, those that cannot be translated included. */
#define VFIO_USER_MAPS_MAX 1024U

/** The most files behind them. */
#define VFIO_USER_FILES_MAX 64U

/** struct vfio_user_map - one DMA mapping, as the client made it. */
struct vfio_user_map {
	uint64_t address, size;
	bool translatable; /* there is a region for it */
};

/** struct vfio_user_file - a file that is mapped, and open still: the daemon after this one will map it, too. */
struct vfio_user_file {
	struct guest_mapping *mapping;
	int fd;
};

/** struct vfio_user_memory - what the client shares; memory.c. */
struct vfio_user_memory {
	struct vfio_user_map *maps; /* VFIO_USER_MAPS_MAX, sorted by address */
	unsigned map_count;
	uint64_t shared;				  /* bytes in all of them */
	uint64_t translatable;				  /* bytes in those that have a region */
	struct vfio_user_file files[VFIO_USER_FILES_MAX]; /* what regions are windows of, and will be again */
	unsigned file_count;
	struct guest_memory *map; /* of the regions; the device's */
};

enum vfio_user_connection_state {
	CONNECTION_CLOSED,
	CONNECTION_READING,  /* a message is coming in */
	CONNECTION_WORKING,  /* it is complete; the device has deferred something that it needs */
	CONNECTION_REPLYING, /* the client does not take its reply yet */
	CONNECTION_LEAVING,  /* between two messages; the device is being brought to rest, for another daemon */
	CONNECTION_CLOSING,  /* the device is being brought to rest and reset */
};

/** What the device has deferred. */
enum vfio_user_operation {
	OPERATION_NONE,
	OPERATION_OPEN_RESET, /* of a new connection */
	OPERATION_PAUSE,      /* for the message */
	OPERATION_HANDLER,    /* within the message's handler */
	OPERATION_LEAVE_PAUSE,
	OPERATION_CLOSE_PAUSE,
	OPERATION_CLOSE_RESET,
};

struct vfio_user_connection {
	struct pci_device *device;
	struct event_base *base;
	uint64_t memory_max;					 /* quota, bytes; 0: 1 TiB */
	bool trap_windows;					 /* offer none of the device's windows */
	void (*closed)(struct vfio_user_connection *connection); /* from the event loop, once for each open */
	void *context;

	enum vfio_user_connection_state state;
	enum vfio_user_operation operation;
	int fd;
	struct event *readable, *writable, *overdue, *finished;
	struct event *more;	   /* messages wait in the buffer, but the turn was over */
	struct event *memory_due;  /* the device goes on, though not all of its memory has come back */
	struct event *leave_due;   /* the client did not take its last reply */
	struct disposal *disposal; /* of what the client gave us; outlives the session */

	/* what has come in: bytes, and the files that came with the last of them */
	uint8_t buffer[2 * sizeof(struct vfio_user_message)];
	size_t buffer_start, buffer_end;
	bool drained; /* the last read took all that there was: the next one would be in vain */
	int held[VFIO_USER_FDS_MAX];
	unsigned held_count;

	/* the message that is being handled */
	struct vfio_user_message message;
	const struct vfio_user_row *row;
	const char *reason;	  /* why the handler refused, for people */
	int reply_fd;		  /* goes with the reply; the device's own, -1: none */
	size_t sent;		  /* bytes of the reply */
	unsigned progress;	  /* the handler's own, for when it is called again; 0 at first */
	struct pci_access access; /* the same */

	/* the session */
	bool agreed;	    /* on a version */
	bool windows_given; /* to this client or to one before it: not to be given to another */
	bool leaving;	    /* to another daemon, as soon as the message that is under way has been answered */
	bool await_memory;  /* when leaving: the device was paused until its memory comes back */
	int parcel;	    /* what the other daemon gets (handover.c); -1: none, or the session just ends */
	bool paused;	    /* the device, by us */
	uint64_t expected;  /* bytes of memory shared when it was paused */
	struct vfio_user_memory memory;
	struct vfio_user_watch {
		int fd;
		struct event *event;
		bool stale;	    /* the next signal is one that the daemon before has seen */
	} mask_watch, unmask_watch; /* eventfds by which the client (un)masks the pin */

	/* for status */
	uint64_t messages, kinds[VFIO_USER_KINDS], posted;
	uint64_t refused; /* connections ended because of a message */
	uint64_t errors;  /* messages answered with an error (or not answered, if posted) */
	const char *last_error;
	struct log_limit lives; /* lines that say that a client came or went */
};

/* connection.c */

/** vfio_user_connection_init() - once, before the first open. Return: 0 or -ENOMEM. */
int vfio_user_connection_init(struct vfio_user_connection *connection, struct pci_device *device,
			      struct event_base *base);
void vfio_user_connection_release(struct vfio_user_connection *connection);

/** vfio_user_connection_open() - serve the client on socket @fd, which becomes the connection's. Return: 0; -ENOMEM;
 * errors of pci_device_renew_windows(). */
int vfio_user_connection_open(struct vfio_user_connection *connection, int fd);

/**
 * vfio_user_connection_begin() - the part of opening that comes before the device is reset, or loaded: @fd becomes the
 * connection's in any case. The session is in CONNECTION_WORKING, and the device paused. Return: 0; -ENOMEM.
 *
 * vfio_user_connection_go_on() - the device has been loaded: resume it, unless @await_memory, and read.
 */
int vfio_user_connection_begin(struct vfio_user_connection *connection, int fd);
void vfio_user_connection_go_on(struct vfio_user_connection *connection, bool await_memory);

/** vfio_user_leave_reading() - stop reading: the message cannot be finished now, or the next one must not begin. */
void vfio_user_leave_reading(struct vfio_user_connection *connection, enum vfio_user_connection_state state);

/** vfio_user_deferred() - Return: does the device take its time for @operation? If so the connection goes on when it is done.
 */
bool vfio_user_deferred(struct vfio_user_connection *connection, enum vfio_user_operation operation,
			enum pci_result result);

/** vfio_user_close_next() - closing, and the device does nothing for us now: the next step. */
void vfio_user_close_next(struct vfio_user_connection *connection);

/** vfio_user_connection_close() - bring the device to rest, release everything, then call @closed. Harmless when
 * closing. */
void vfio_user_connection_close(struct vfio_user_connection *connection, const char *reason);

/**
 * vfio_user_refuse() - for handlers: remember why.
 * Return: @error, for the handler to return.
 */
static inline int vfio_user_refuse(struct vfio_user_connection *connection, int error, const char *reason)
{
	connection->reason = reason;
	return error;
}

/* framing.c */

/**
 * vfio_user_receive() - take the next message, from what has come in or from the socket.
 * Return: 0 when it is complete; -EAGAIN; -ECONNRESET at the end; -EPROTO, with a reason: the stream cannot be trusted
 * any more; other errors of the socket.
 */
int vfio_user_receive(struct vfio_user_connection *connection);

/** vfio_user_send_reply() - send connection->message. Return: 0 when all of it is out; -EAGAIN; errors. */
int vfio_user_send_reply(struct vfio_user_connection *connection);

/** vfio_user_release_fds() - close what a handler did not keep of connection->message; _held_: what has no message yet.
 */
void vfio_user_release_fds(struct vfio_user_connection *connection);
void vfio_user_release_held_fds(struct vfio_user_connection *connection);

/* memory.c */

/** vfio_user_memory_init() - of a session. Return: 0 or -ENOMEM. */
int vfio_user_memory_init(struct vfio_user_memory *memory);

/** vfio_user_memory_settle() - no change is under way: let go of files that nothing is a window of. */
void vfio_user_memory_settle(struct vfio_user_memory *memory);
void vfio_user_memory_release(struct vfio_user_memory *memory);

/* handover.c */

/**
 * vfio_user_connection_hand_over() - as vfio_user_connection_close(), but the client stays: what it takes to serve it is in
 * connection->parcel when @closed is called; -1 when that could not be.
 */
void vfio_user_connection_hand_over(struct vfio_user_connection *connection);

/**
 * vfio_user_connection_adopt() - serve the client that another daemon has handed over; instead of
 * vfio_user_connection_open(), and once. After an error the client is let go, and @closed is called.
 */
int vfio_user_connection_adopt(struct vfio_user_connection *connection, struct parcel *parcel);

/** vfio_user_leave() - leaving, and no message is under way; _paused(): and the device is at rest; _overdue(): an event. */
void vfio_user_leave(struct vfio_user_connection *connection);
void vfio_user_leave_paused(struct vfio_user_connection *connection);
void vfio_user_leave_overdue(int fd, short what, void *context);

/* interrupts.c */

/** vfio_user_watch_pin() - @fd (un)masks the pin when it is signalled. Return: 0, and it is ours; -ENOMEM. */
int vfio_user_watch_pin(struct vfio_user_connection *connection, bool unmask, int fd);

/** vfio_user_interrupts_release() - take away all that the client gave. */
void vfio_user_interrupts_release(struct vfio_user_connection *connection);

#endif
