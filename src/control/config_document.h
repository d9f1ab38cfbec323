/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Internal to the configuration: the parsed YAML document, for what libcyaml does not tell - where a value stands,
 * whether a key was given at all, and errors a person can act upon.
 */
#ifndef CONTROL_CONFIG_DOCUMENT_H
#define CONTROL_CONFIG_DOCUMENT_H

#include <stdbool.h>
#include <stddef.h>
#include <yaml.h>

#include "control/config_schema.h"

struct config_document {
	yaml_document_t yaml;
	const char *path; /* as the user wrote it, for messages */
	char *error;	  /* the first one; NULL: none */
};

/** config_document_open() - parse. Return: 0; -EINVAL with document->error, which is to be freed in every case. */
int config_document_open(struct config_document *document, const char *path, const char *text, size_t length);
void config_document_close(struct config_document *document);

/** config_document_check() - keys, types and words against @schema. Return: 0; -EINVAL with document->error. */
int config_document_check(struct config_document *document, const cyaml_schema_value_t *schema);

#define CONFIG_NO_INDEX (-1)

/** struct config_place - a way into the document: interfaces[2].mac, or disks[0].backend.path. NULLs end it. */
struct config_place {
	const char *section;
	int index; /* CONFIG_NO_INDEX: the section itself */
	const char *key;
	const char *subkey;
};

/** config_document_has() - is there a value at exactly that place? */
bool config_document_has(struct config_document *document, struct config_place place);

/** config_document_line() - line of the place, or of the closest thing around it that exists; from 1. */
unsigned config_document_line(struct config_document *document, struct config_place place);

/** config_document_fail() - note "path:line: sentence" as the error, unless there is one. Return: -EINVAL. */
int config_document_fail(struct config_document *document, unsigned line, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

#endif
