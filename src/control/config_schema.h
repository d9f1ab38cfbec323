/* SPDX-License-Identifier: BSD-3-Clause */
/* Internal to the configuration: the schema that libcyaml loads by, and that config_document.c checks documents
 * against. */
#ifndef CONTROL_CONFIG_SCHEMA_H
#define CONTROL_CONFIG_SCHEMA_H

#include <cyaml/cyaml.h>

/** config_schema - of the whole file: a pointer to struct config. */
extern const cyaml_schema_value_t config_schema;

#endif
