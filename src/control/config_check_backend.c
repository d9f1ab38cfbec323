/* SPDX-License-Identifier: BSD-3-Clause */
/* What a schema cannot say of the backends of disks. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/clock.h"
#include "control/config_check.h"

/** Of a request to an NBD server. */
#define TIMEOUT_MIN_NS (100 * NANOSECONDS_PER_MILLISECOND)
#define TIMEOUT_MAX_NS (3600 * NANOSECONDS_PER_SECOND)

/* A key that has no meaning for this type of backend is a misunderstanding, not to be ignored. */
static int check_backend_keys(const struct config_backend *backend, struct config_document *document, unsigned index)
{
	static const char *const types[] = { "file", "ram", "null", "nbd" };
	static const struct {
		const char *key;
		unsigned types;
	} keys[] = {
		{ "path", 1U << CONFIG_BACKEND_FILE },
		{ "direct", 1U << CONFIG_BACKEND_FILE },
		{ "handover", 1U << CONFIG_BACKEND_FILE },
		{ "uri", 1U << CONFIG_BACKEND_NBD },
		{ "timeout", 1U << CONFIG_BACKEND_NBD },
		{ "size", 1U << CONFIG_BACKEND_FILE | 1U << CONFIG_BACKEND_RAM | 1U << CONFIG_BACKEND_NULL },
	};

	for (unsigned i = 0; i < array_size(keys); i++) {
		struct config_place place = PLACE("disks", (int)index, "backend", keys[i].key);

		if (config_document_has(document, place) && !(keys[i].types & 1U << backend->type))
			return FAIL(place, "\"%s\" means nothing to a backend of type %s; remove it", keys[i].key,
				    types[backend->type]);
	}
	return 0;
}

static int check_image(struct config *config, struct config_document *document, const char *folder, unsigned index)
{
	struct config_disk *disk = &config->disks[index], *other;
	struct config_backend *backend = disk->backend;
	struct config_place place = PLACE("disks", (int)index, "backend", "path");

	if (!backend->path || !backend->path[0])
		return FAIL(place, "backend has no \"path\"; name an image file or a block device");
	if (config_absolute(&backend->path, folder))
		return -ENOMEM;
	if (!backend->size && access(backend->path, F_OK) && errno == ENOENT)
		return FAIL(place, "\"%s\" does not exist; create it, or add \"size\" to have it created",
			    backend->path);
	for (other = config->disks; other < disk; other++) {
		if (other->backend->type == CONFIG_BACKEND_FILE && !strcmp(other->backend->path, backend->path) &&
		    !(other->read_only && disk->read_only))
			return FAIL(
				place,
				"\"%s\" already is the image of %s; an image has one disk that writes to it, or any "
				"number that are read_only: use another one",
				backend->path, other->name);
	}
	return 0;
}

static int check_timeout(struct config_backend *backend, struct config_document *document, unsigned index)
{
	struct config_place place = PLACE("disks", (int)index, "backend", "timeout");
	uint64_t nanoseconds;

	if (!backend->timeout)
		return 0;
	if (config_check_duration(document, place, backend->timeout, TIMEOUT_MAX_NS, &nanoseconds))
		return -EINVAL;
	if (nanoseconds < TIMEOUT_MIN_NS)
		return FAIL(place, "timeout is %.60s; use 100ms to 3600s", backend->timeout);
	backend->timeout_ms = (uint32_t)(nanoseconds / NANOSECONDS_PER_MILLISECOND);
	return 0;
}

int config_check_backend(struct config *config, struct config_document *document, const char *folder, unsigned index)
{
	struct config_disk *disk = &config->disks[index];
	struct config_backend *backend = disk->backend;
	struct config_place size = PLACE("disks", (int)index, "backend", "size");
	struct config_place uri = PLACE("disks", (int)index, "backend", "uri");

	if (check_backend_keys(backend, document, index))
		return -EINVAL;
	backend->direct = !backend->direct_given || *backend->direct_given;
	if (backend->size && config_check_size(document, size, backend->size, &backend->size_bytes))
		return -EINVAL;
	if (backend->size && (!backend->size_bytes || backend->size_bytes % disk->block_size))
		return FAIL(size, "size must be a multiple of the block size of %u bytes, and not 0", disk->block_size);
	switch (backend->type) {
	case CONFIG_BACKEND_FILE:
		return check_image(config, document, folder, index);
	case CONFIG_BACKEND_NBD:
		if (!backend->uri)
			return FAIL(uri, "backend has no \"uri\"; add one like nbd://host/export");
		if (strncmp(backend->uri, "nbd://", 6) && strncmp(backend->uri, "nbds://", 7) &&
		    strncmp(backend->uri, "nbd+unix://", 11) && strncmp(backend->uri, "nbds+unix://", 12))
			return FAIL(uri,
				    "\"%.60s\" is not an NBD address; write nbd://host/export or "
				    "nbd+unix:///export?socket=PATH",
				    backend->uri);
		return check_timeout(backend, document, index);
	default:
		if (!backend->size)
			return FAIL(size, "backend has no \"size\"; add one, such as 1G");
		return 0;
	}
}
