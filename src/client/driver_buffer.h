/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef CLIENT_DRIVER_BUFFER_H
#define CLIENT_DRIVER_BUFFER_H

#include <stdint.h>

/* In a length: the frame goes on in the buffer that comes next. */
#define DRIVER_BUFFER_MORE 0x80000000u

/**
 * struct driver_buffer - a buffer on its way to the device or back, whatever the device's rings look like.
 * @id:		which one, from 0
 * @length:	bytes that the device wrote, when it comes back; ignored on the way out
 */
struct driver_buffer {
	uint32_t id;
	uint32_t length;
};

#endif
