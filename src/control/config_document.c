/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The configuration as a document: positions, and errors that name line, cause and remedy.
 *
 * Theory of operation
 * -------------------
 * libcyaml 1.3 fills our structures, but is a poor witness of what is wrong: it reports the line of the event before
 * the one at fault, takes any unknown word for a boolean as "true", and cannot say which keys there are. So the text is
 * first parsed into a libyaml document, and the document is walked along *the same* schema tables that libcyaml loads
 * by: unknown keys (with the one that was probably meant), keys given twice, missing ones, values of a wrong type,
 * words that are no choice. What libcyaml still refuses after that is reported with its own words.
 *
 * The walk is as deep as the schema, not as the document: aliases that lead in circles cannot keep it busy.
 * The document also answers config_check.c where a value stands.
 */
#include "control/config_document.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "control/suggest.h"

/* A user's own words are repeated in messages up to this length. */
#define QUOTE_MAX 60

int config_document_fail(struct config_document *document, unsigned line, const char *format, ...)
{
	va_list arguments;
	char *sentence = NULL;

	if (document->error)
		return -EINVAL;
	va_start(arguments, format);
	if (vasprintf(&sentence, format, arguments) < 0)
		sentence = NULL;
	va_end(arguments);
	if (!sentence || asprintf(&document->error, "%s:%u: %s", document->path, line, sentence) < 0)
		document->error = NULL;
	free(sentence);
	return -EINVAL;
}

static unsigned node_line(const yaml_node_t *node)
{
	return (unsigned)node->start_mark.line + 1;
}

static const char *node_text(const yaml_node_t *node)
{
	return (const char *)node->data.scalar.value;
}

static bool node_is_text(const yaml_node_t *node, const char *text)
{
	return node->type == YAML_SCALAR_NODE && !strcmp(node_text(node), text);
}

/* Scalars that hold a zero byte would be cut short wherever they are used as C strings. */
static int check_scalars(struct config_document *document)
{
	yaml_node_t *node;

	for (node = document->yaml.nodes.start; node < document->yaml.nodes.top; node++) {
		if (node->type == YAML_SCALAR_NODE && strlen(node_text(node)) != node->data.scalar.length)
			return config_document_fail(document, node_line(node),
						    "a value contains a zero byte; remove it");
	}
	return 0;
}

/* A second document after "---" would be ignored without a word. */
static int check_single(struct config_document *document, yaml_parser_t *parser)
{
	yaml_document_t second;
	int error = 0;

	if (!yaml_parser_load(parser, &second))
		return config_document_fail(document, (unsigned)parser->problem_mark.line + 1,
					    "not valid YAML after the end of the document; remove what follows");
	if (yaml_document_get_root_node(&second))
		error = config_document_fail(
			document, node_line(yaml_document_get_root_node(&second)),
			"a second document starts here; remove the \"---\" or use a file of its own");
	yaml_document_delete(&second);
	return error;
}

int config_document_open(struct config_document *document, const char *path, const char *text, size_t length)
{
	yaml_parser_t parser;
	int error = 0;

	memset(document, 0, sizeof(*document));
	document->path = path;
	if (!yaml_parser_initialize(&parser))
		return config_document_fail(document, 1, "out of memory");
	yaml_parser_set_input_string(&parser, (const unsigned char *)text, length);
	if (!yaml_parser_load(&parser, &document->yaml)) {
		/* The scanner's context ("while scanning a quoted scalar") starts where the mistake was made. */
		const yaml_mark_t *mark = parser.context && parser.error == YAML_SCANNER_ERROR ? &parser.context_mark
											       : &parser.problem_mark;

		error = config_document_fail(document, (unsigned)mark->line + 1,
					     "not valid YAML: %s%s%s; check indentation, colons and quotes here",
					     parser.problem ? parser.problem : "unreadable", parser.context ? " " : "",
					     parser.context ? parser.context : "");
		memset(&document->yaml, 0, sizeof(document->yaml));
	}
	if (!error)
		error = check_single(document, &parser);
	yaml_parser_delete(&parser);
	return error ? error : check_scalars(document);
}

void config_document_close(struct config_document *document)
{
	yaml_document_delete(&document->yaml);
}

static yaml_node_t *find_value(struct config_document *document, const yaml_node_t *mapping, const char *key)
{
	yaml_node_pair_t *pair;

	if (!mapping || mapping->type != YAML_MAPPING_NODE)
		return NULL;
	for (pair = mapping->data.mapping.pairs.start; pair < mapping->data.mapping.pairs.top; pair++) {
		if (node_is_text(yaml_document_get_node(&document->yaml, pair->key), key))
			return yaml_document_get_node(&document->yaml, pair->value);
	}
	return NULL;
}

static yaml_node_t *find_item(struct config_document *document, const yaml_node_t *sequence, int index)
{
	if (!sequence || sequence->type != YAML_SEQUENCE_NODE || index < 0 ||
	    index >= sequence->data.sequence.items.top - sequence->data.sequence.items.start)
		return NULL;
	return yaml_document_get_node(&document->yaml, sequence->data.sequence.items.start[index]);
}

/* @exact: NULL when the place does not exist; else the closest thing around it. */
static yaml_node_t *find_place(struct config_document *document, struct config_place place, bool exact)
{
	yaml_node_t *around = yaml_document_get_root_node(&document->yaml);
	yaml_node_t *found = find_value(document, around, place.section);

	if (found && place.index != CONFIG_NO_INDEX) {
		around = found;
		found = find_item(document, found, place.index);
	}
	if (found && place.key) {
		around = found;
		found = find_value(document, found, place.key);
	}
	if (found && place.key && place.subkey) {
		around = found;
		found = find_value(document, found, place.subkey);
	}
	return found || exact ? found : around;
}

bool config_document_has(struct config_document *document, struct config_place place)
{
	return find_place(document, place, true) != NULL;
}

unsigned config_document_line(struct config_document *document, struct config_place place)
{
	yaml_node_t *node = find_place(document, place, false);

	return node ? node_line(node) : 1;
}

/* What surrounds a value, for messages: "interface", "uplink"; the top level has none. */
struct surroundings {
	const char *what; /* NULL: the top level */
	const char *key;  /* of the value itself */
};

static int check_value(struct config_document *document, const yaml_node_t *node, const cyaml_schema_value_t *schema,
		       struct surroundings where);

static const char *type_name(enum cyaml_type type)
{
	switch (type) {
	case CYAML_MAPPING:
		return "keys and values (key: value)";
	case CYAML_SEQUENCE:
		return "a list ([a, b], or lines that start with -)";
	default:
		return "a single value";
	}
}

static int check_unknown_key(struct config_document *document, const yaml_node_t *key,
			     const cyaml_schema_field_t *fields, struct surroundings where)
{
	const char *candidates[64], *meant;
	char list[512] = "";
	size_t count = 0, used = 0;

	for (; fields[count].key && count < array_size(candidates); count++) {
		candidates[count] = fields[count].key;
		if (used < sizeof(list))
			used += (size_t)snprintf(list + used, sizeof(list) - used, "%s%s", count ? ", " : "",
						 fields[count].key);
	}
	meant = suggest(node_text(key), candidates, count);
	if (meant)
		return config_document_fail(document, node_line(key), "unknown key \"%.*s\"%s%s; did you mean \"%s\"?",
					    QUOTE_MAX, node_text(key), where.what ? " in " : "",
					    where.what ? where.what : "", meant);
	return config_document_fail(document, node_line(key), "unknown key \"%.*s\"%s%s; the keys here are: %s",
				    QUOTE_MAX, node_text(key), where.what ? " in " : "", where.what ? where.what : "",
				    list);
}

/* "interfaces" is a list of what is called an interface. */
static const char *singular(const char *key)
{
	static const char *const words[][2] = {
		{ "sidecores", "sidecore" }, { "networks", "network" }, { "interfaces", "interface" },
		{ "disks", "disk" },	     { "forwards", "forward" },
	};

	for (size_t i = 0; i < array_size(words); i++) {
		if (!strcmp(words[i][0], key))
			return words[i][1];
	}
	return key;
}

static int check_mapping(struct config_document *document, const yaml_node_t *node, const cyaml_schema_field_t *fields,
			 struct surroundings where)
{
	const yaml_node_pair_t *first = node->data.mapping.pairs.start, *end = node->data.mapping.pairs.top;
	struct surroundings inner = { .what = where.key };
	uint64_t seen = 0; /* bit per field; schemas here have far fewer than 64 */

	for (const yaml_node_pair_t *pair = first; pair < end; pair++) {
		const yaml_node_t *key = yaml_document_get_node(&document->yaml, pair->key);
		const yaml_node_t *value = yaml_document_get_node(&document->yaml, pair->value);
		const cyaml_schema_field_t *field = fields;

		if (key->type != YAML_SCALAR_NODE)
			return config_document_fail(document, node_line(key),
						    "a key must be a word; remove the brackets");
		while (field->key && strcmp(field->key, node_text(key)))
			field++;
		if (!field->key)
			return check_unknown_key(document, key, fields, inner);
		if (seen & 1ULL << (field - fields))
			return config_document_fail(document, node_line(key), "\"%s\" is given twice; keep one of them",
						    field->key);
		seen |= 1ULL << (field - fields);
		inner.key = field->key;
		if (check_value(document, value, &field->value, inner))
			return -EINVAL;
	}
	for (unsigned i = 0; fields[i].key; i++) {
		if (!(seen & 1ULL << i) && !(fields[i].value.flags & CYAML_FLAG_OPTIONAL))
			return config_document_fail(document, node_line(node), "%s has no \"%s\"; add it",
						    inner.what ? inner.what : "the file", fields[i].key);
	}
	return 0;
}

static int check_sequence(struct config_document *document, const yaml_node_t *node, const cyaml_schema_value_t *schema,
			  struct surroundings where)
{
	const yaml_node_item_t *item = node->data.sequence.items.start;
	struct surroundings inner = { .what = where.what, .key = singular(where.key) };

	if (node->data.sequence.items.top - item > (ptrdiff_t)schema->sequence.max)
		return config_document_fail(document, node_line(node),
					    "\"%s\" has %td entries; at most %u are possible", where.key,
					    node->data.sequence.items.top - item, schema->sequence.max);
	for (; item < node->data.sequence.items.top; item++) {
		if (check_value(document, yaml_document_get_node(&document->yaml, *item), schema->sequence.entry,
				inner))
			return -EINVAL;
	}
	return 0;
}

static int check_word(struct config_document *document, const yaml_node_t *node, const cyaml_schema_value_t *schema,
		      struct surroundings where)
{
	const char *candidates[16], *meant;
	char list[256] = "";
	size_t used = 0, count = schema->enumeration.count;

	for (size_t i = 0; i < count && i < array_size(candidates); i++) {
		candidates[i] = schema->enumeration.strings[i].str;
		if (!strcmp(candidates[i], node_text(node)))
			return 0;
		if (used < sizeof(list))
			used += (size_t)snprintf(list + used, sizeof(list) - used, "%s%s", i ? ", " : "",
						 candidates[i]);
	}
	meant = suggest(node_text(node), candidates, min(count, array_size(candidates)));
	if (meant)
		return config_document_fail(document, node_line(node),
					    "unknown %s \"%.*s\" of %s; did you mean \"%s\"?", where.key, QUOTE_MAX,
					    node_text(node), where.what, meant);
	return config_document_fail(document, node_line(node), "unknown %s \"%.*s\" of %s; use one of: %s", where.key,
				    QUOTE_MAX, node_text(node), where.what, list);
}

static int check_bool(struct config_document *document, const yaml_node_t *node, struct surroundings where)
{
	static const char *const words[] = { "true", "false", "yes", "no", "on", "off" };

	for (size_t i = 0; i < array_size(words); i++) {
		if (!strcmp(words[i], node_text(node)))
			return 0;
	}
	return config_document_fail(document, node_line(node), "\"%s\" is \"%.*s\"; write true or false", where.key,
				    QUOTE_MAX, node_text(node));
}

/* Decimal only, and no leading zero: libcyaml would read 010 as eight. */
static int check_number(struct config_document *document, const yaml_node_t *node, const cyaml_schema_value_t *schema,
			struct surroundings where)
{
	unsigned bits = 8 * min(schema->data_size, 4U);
	int64_t most = schema->type == CYAML_INT ? (1LL << (bits - 1)) - 1 : (1LL << bits) - 1;
	const char *text = node_text(node);
	size_t digits = strspn(text, "0123456789");

	/* Ten digits fit 64 bits whatever they are. */
	if (digits && !text[digits] && digits <= 10 && (text[0] != '0' || digits == 1) &&
	    strtoll(text, NULL, 10) <= most)
		return 0;
	return config_document_fail(document, node_line(node),
				    "\"%s\" is \"%.*s\"; write a whole number from 0 to %lld", where.key, QUOTE_MAX,
				    text, (long long)most);
}

static bool is_null(const yaml_node_t *node)
{
	return node->data.scalar.style == YAML_PLAIN_SCALAR_STYLE &&
	       (node_is_text(node, "") || node_is_text(node, "~") || node_is_text(node, "null"));
}

static int check_value(struct config_document *document, const yaml_node_t *node, const cyaml_schema_value_t *schema,
		       struct surroundings where)
{
	yaml_node_type_t wanted = schema->type == CYAML_MAPPING	   ? YAML_MAPPING_NODE
				  : schema->type == CYAML_SEQUENCE ? YAML_SEQUENCE_NODE
								   : YAML_SCALAR_NODE;

	/* "null" is also the name of an uplink and of a backend. */
	if (node->type == YAML_SCALAR_NODE && is_null(node) &&
	    !(schema->type == CYAML_ENUM && node->data.scalar.length == strlen("null")))
		return config_document_fail(document, node_line(node),
					    "\"%s\" has no value; write one or remove the key", where.key);
	if (node->type != wanted)
		return config_document_fail(document, node_line(node), "\"%s\" must be %s", where.key,
					    type_name(schema->type));
	switch (schema->type) {
	case CYAML_MAPPING:
		return check_mapping(document, node, schema->mapping.fields, where);
	case CYAML_SEQUENCE:
		return check_sequence(document, node, schema, where);
	case CYAML_ENUM:
		return check_word(document, node, schema, where);
	case CYAML_BOOL:
		return check_bool(document, node, where);
	case CYAML_INT:
	case CYAML_UINT:
		return check_number(document, node, schema, where);
	default:
		return 0;
	}
}

int config_document_check(struct config_document *document, const cyaml_schema_value_t *schema)
{
	const yaml_node_t *root = yaml_document_get_root_node(&document->yaml);

	if (!root)
		return config_document_fail(document, 1,
					    "the file is empty; sidecore.yaml(5) has an example to start from");
	if (root->type != YAML_MAPPING_NODE)
		return config_document_fail(
			document, node_line(root),
			"the file must consist of keys and values; sidecore.yaml(5) has an example");
	return check_mapping(document, root, schema->mapping.fields, (struct surroundings){ 0 });
}
