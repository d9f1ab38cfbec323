/* SPDX-License-Identifier: BSD-3-Clause */
/* vfio-user messages: payloads made of words of the input, in the order and of the widths that each message has; and replies. */
#ifndef TESTS_FUZZ_VFIO_MESSAGE_H
#define TESTS_FUZZ_VFIO_MESSAGE_H

#include "fuzz.h"
#include "transport/vfio_user/connection.h"

/** fuzz_vfio_word() - one byte stands for a number that matters: addresses and sizes of the guest's regions, limits. */
uint64_t fuzz_vfio_word(struct fuzz_input *input);

/** fuzz_vfio_payload() - @memory: what is mapped now, so that some of it can be unmapped. Return: the size that goes with it. */
uint32_t fuzz_vfio_payload(uint16_t command, union vfio_user_payload *payload, const struct vfio_user_memory *memory,
			   struct fuzz_input *input);

/**
 * fuzz_vfio_take_replies() - read what the server has sent, and see to it that these are replies; their files are closed.
 * fuzz_vfio_forget_replies(): another connection, so what had come of a reply has no end.
 */
void fuzz_vfio_take_replies(int client);
void fuzz_vfio_forget_replies(void);

#endif
