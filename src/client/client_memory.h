/* SPDX-License-Identifier: BSD-3-Clause */
/* The "guest" memory of a client: one memfd, shared with the server whole, handed out in pieces. */
#ifndef CLIENT_CLIENT_MEMORY_H
#define CLIENT_CLIENT_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Guest physical addresses begin at 4 GiB and have nothing in common with our virtual addresses, so that a server that
 * confuses the two is found out at once.
 */
#define CLIENT_MEMORY_BASE 0x100000000ULL

/**
 * struct client_memory - guest memory as we see it.
 * @base:	its first byte; NULL: none
 * @size:	bytes, a multiple of 2 MiB
 * @used:	bytes handed out
 * @fd:		the memfd behind it; -1: none
 */
struct client_memory {
	uint8_t *base;
	size_t size;
	size_t used;
	int fd;
};

int client_memory_create(struct client_memory *memory, size_t size, bool huge_pages, char *error, size_t error_size);
void client_memory_release(struct client_memory *memory);
void *client_memory_allocate(struct client_memory *memory, size_t size, size_t alignment);

/**
 * client_memory_address() - guest physical address of a piece of guest memory.
 * @memory:	guest memory
 * @pointer:	into what client_memory_allocate() returned
 *
 * Return: the address that descriptors carry.
 */
static inline uint64_t client_memory_address(const struct client_memory *memory, const void *pointer)
{
	return CLIENT_MEMORY_BASE + (uint64_t)((const uint8_t *)pointer - memory->base);
}

#endif
