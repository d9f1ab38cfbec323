/* SPDX-License-Identifier: BSD-3-Clause */
/* Internal to the configuration: what a schema cannot say. */
#ifndef CONTROL_CONFIG_CHECK_H
#define CONTROL_CONFIG_CHECK_H

#include "control/config.h"
#include "control/config_document.h"

#define PLACE(...)	 ((struct config_place){ __VA_ARGS__ })
/** FAIL() - in a function with a @document: the error at a place. */
#define FAIL(place, ...) config_document_fail(document, config_document_line(document, place), __VA_ARGS__)

/**
 * config_check() - fill in defaults and the "checked" fields, make paths absolute, and check everything that belongs
 * together.
 * @folder:	absolute path that relative ones start from
 *
 * Return: 0; -EINVAL with document->error; -ENOMEM.
 */
int config_check(struct config *config, struct config_document *document, const char *folder);

/** config_check_network() - one of config->networks, its uplink included. */
int config_check_network(struct config *config, struct config_document *document, const char *folder, unsigned index);

/** config_check_backend() - of one of config->disks, whose block size has been checked. */
int config_check_backend(struct config *config, struct config_document *document, const char *folder, unsigned index);

/** config_check_nic_model(), config_check_disk_model() - which keys belong to the model; and the controller of a namespace. */
int config_check_nic_model(const struct config *config, struct config_document *document, unsigned index);
int config_check_disk_model(struct config *config, struct config_document *document, unsigned index);

/** config_absolute() - replace @path by an absolute one. Return: 0 or -ENOMEM. */
int config_absolute(char **path, const char *folder);

/** config_check_duration() - of the text at @place, up to @most_ns. Return: 0; -EINVAL with document->error. */
int config_check_duration(struct config_document *document, struct config_place place, const char *text,
			  uint64_t most_ns, uint64_t *nanoseconds);

/** config_check_size() - of the text at @place. Return: 0; -EINVAL with document->error. */
int config_check_size(struct config_document *document, struct config_place place, const char *text, uint64_t *size);

/** config_check_name() - letters, digits, dots, dashes and underscores. */
int config_check_name(struct config_document *document, const char *section, unsigned index, const char *name);

#endif
