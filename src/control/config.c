/* SPDX-License-Identifier: BSD-3-Clause */
/* Loading of the configuration: text, document, schema, structures, checks; and the small languages of its values. */
#include "control/config.h"

#include <ctype.h>
#include <errno.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/clock.h"
#include "control/config_check.h"
#include "control/config_document.h"
#include "control/config_schema.h"

#define CONFIG_FILE_MAX (1U << 20)

#define SYSTEM_CONTROL_FOLDER "/run/sidecore"
#define SYSTEM_CONTROL_PATH   SYSTEM_CONTROL_FOLDER "/control.sock"

/* The first line that libcyaml logs says what is wrong; those after it are a trace. */
static void keep_first_line(cyaml_log_t level, void *context, const char *format, va_list arguments)
{
	char *first = context;

	if (level == CYAML_LOG_ERROR && !first[0]) {
		vsnprintf(first, LINE_MAX, format, arguments);
		first[strcspn(first, "\n")] = '\0';
	}
}

static const cyaml_config_t quiet = { .mem_fn = cyaml_mem, .log_level = CYAML_LOG_ERROR };

void config_free(struct config *config)
{
	if (config)
		cyaml_free(&quiet, &config_schema, config, 0);
}

static int load_structures(struct config_document *document, const char *text, struct config **config)
{
	char said[LINE_MAX] = "";
	cyaml_config_t loud = quiet;
	void *loaded = NULL;
	cyaml_err_t result;

	loud.log_fn = keep_first_line;
	loud.log_ctx = said;
	result = cyaml_load_data((const uint8_t *)text, strlen(text), &loud, &config_schema, &loaded, NULL);
	if (result == CYAML_OK && loaded) {
		*config = loaded;
		return 0;
	}
	return config_document_fail(document, 1, "cannot be read: %s; compare with sidecore.yaml(5)",
				    said[0] ? said : cyaml_strerror(result));
}

static int containing_folder(const char *path, char **folder)
{
	char *copy = strdup(path), resolved[PATH_MAX];
	int error = 0;

	if (!copy)
		return -ENOMEM;
	if (!realpath(dirname(copy), resolved))
		error = -errno;
	free(copy);
	if (error)
		return error;
	*folder = strdup(resolved);
	return *folder ? 0 : -ENOMEM;
}

int config_load_text(const char *path, const char *text, struct config **config, char **error)
{
	struct config_document document;
	char *folder = NULL;
	int result;

	*config = NULL;
	*error = NULL;
	result = config_document_open(&document, path, text, strlen(text));
	if (!result)
		result = config_document_check(&document, &config_schema);
	if (!result)
		result = load_structures(&document, text, config);
	if (!result)
		result = containing_folder(path, &folder);
	if (!result)
		result = config_check(*config, &document, folder);
	if (result) {
		config_free(*config);
		*config = NULL;
		if (!document.error && asprintf(&document.error, "%s: %s", path, strerror(-result)) < 0)
			document.error = NULL;
		*error = document.error;
	}
	free(folder);
	config_document_close(&document);
	return result;
}

/* Return: 0, or a negative errno with the remedy in @error. */
static int read_file(const char *path, char **text, char **error)
{
	FILE *file = fopen(path, "re");
	const char *remedy;
	size_t length = 0;
	int result = 0;

	*text = malloc(CONFIG_FILE_MAX + 1);
	if (!*text || !file) {
		result = *text ? -errno : -ENOMEM;
		remedy = result == -ENOENT ? "check the name; sidecore.yaml(5) has an example to start from"
					   : "it must be readable for the user that runs sidecore";
	} else {
		length = fread(*text, 1, CONFIG_FILE_MAX + 1, file);
		if (ferror(file)) {
			result = -EIO;
			remedy = "it must be a readable file";
		} else if (length > CONFIG_FILE_MAX) {
			result = -EFBIG;
			remedy = "a configuration has at most 1 MiB";
		} else if (memchr(*text, '\0', length)) {
			result = -EINVAL;
			remedy = "it contains zero bytes and is not a text file";
		}
	}
	if (file)
		fclose(file);
	if (!result) {
		(*text)[length] = '\0';
		return 0;
	}
	if (asprintf(error, "%s: %s; %s", path, strerror(-result), remedy) < 0)
		*error = NULL;
	return result;
}

int config_load(const char *path, struct config **config, char **error)
{
	char *text = NULL;
	int result;

	*config = NULL;
	*error = NULL;
	result = read_file(path, &text, error);
	if (!result)
		result = config_load_text(path, text, config, error);
	free(text);
	return result;
}

int config_default_control_path(bool for_client, char **path)
{
	const char *runtime = getenv("XDG_RUNTIME_DIR");
	char *own = NULL;

	*path = NULL;
	if (runtime && runtime[0] == '/' && asprintf(&own, "%s/sidecore.sock", runtime) < 0)
		return -ENOMEM;
	if (for_client ? access(SYSTEM_CONTROL_PATH, F_OK) == 0 || !own
		       : geteuid() == 0 || access(SYSTEM_CONTROL_FOLDER, W_OK) == 0) {
		free(own);
		*path = strdup(SYSTEM_CONTROL_PATH);
		return *path ? 0 : -ENOMEM;
	}
	*path = own;
	return own ? 0 : -ENOENT;
}

/* Digits and then one of @units, all of which is multiplied. */
struct unit {
	const char *name;
	uint64_t factor;
};

static int parse_with_unit(const char *text, const struct unit *units, size_t count, uint64_t *value)
{
	unsigned long long number;
	char *end;

	if (!isdigit((unsigned char)text[0]))
		return -EINVAL;
	errno = 0;
	number = strtoull(text, &end, 10);
	if (errno)
		return -ERANGE;
	for (size_t i = 0; i < count; i++) {
		if (!strcmp(end, units[i].name))
			return checked_multiply(number, units[i].factor, value) ? 0 : -ERANGE;
	}
	return -EINVAL;
}

int config_parse_size(const char *text, uint64_t *size)
{
	static const struct unit units[] = {
		{ "", 1 },  { "K", 1ULL << 10 },   { "M", 1ULL << 20 },	  { "G", 1ULL << 30 },	 { "T", 1ULL << 40 },
		{ "B", 1 }, { "KiB", 1ULL << 10 }, { "MiB", 1ULL << 20 }, { "GiB", 1ULL << 30 }, { "TiB", 1ULL << 40 },
	};

	return parse_with_unit(text, units, array_size(units), size);
}

int config_parse_duration(const char *text, uint64_t *nanoseconds)
{
	static const struct unit units[] = {
		{ "ns", 1 },
		{ "us", NANOSECONDS_PER_MICROSECOND },
		{ "ms", NANOSECONDS_PER_MILLISECOND },
		{ "s", NANOSECONDS_PER_SECOND },
	};

	if (!strcmp(text, "0")) {
		*nanoseconds = 0;
		return 0;
	}
	return parse_with_unit(text, units, array_size(units), nanoseconds);
}

int config_parse_mac(const char *text, uint8_t mac[6])
{
	uint8_t parsed[6];

	for (unsigned i = 0; i < 6; i++, text += 3) {
		char digits[3] = { 0 };

		if (!isxdigit((unsigned char)text[0]) || !isxdigit((unsigned char)text[1]) ||
		    text[2] != (i < 5 ? ':' : '\0'))
			return -EINVAL;
		memcpy(digits, text, 2);
		parsed[i] = (uint8_t)strtoul(digits, NULL, 16);
	}
	/* A group address cannot be a station's own (IEEE 802 8.2.2); neither can zero. */
	if (parsed[0] & 1 || !memcmp(parsed, (uint8_t[6]){ 0 }, 6))
		return -EINVAL;
	memcpy(mac, parsed, 6);
	return 0;
}

void config_derive_mac(const char *name, uint8_t mac[6])
{
	uint64_t hash = 0xcbf29ce484222325ULL; /* FNV-1a, 64 bits */

	for (; *name; name++)
		hash = (hash ^ (uint8_t)*name) * 0x100000001b3ULL;
	hash ^= hash >> 48; /* fold what the six bytes below leave out */
	for (unsigned i = 0; i < 6; i++)
		mac[i] = (uint8_t)(hash >> (8 * i));
	mac[0] = (uint8_t)((mac[0] | 0x02) & ~0x01); /* locally administered, unicast */
}
