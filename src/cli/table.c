/* SPDX-License-Identifier: BSD-3-Clause */
#include "cli/table.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"

#define COLUMN_GAP 2

struct table_entry {
	char *text;
	enum table_colour colour;
};

struct table {
	const char *const *heads;
	unsigned columns;
	struct table_entry *cells;
	size_t count, capacity;
};

struct table *table_create(const char *const *heads)
{
	struct table *table = calloc(1, sizeof(*table));

	if (!table)
		return NULL;
	table->heads = heads;
	while (heads[table->columns])
		table->columns++;
	return table;
}

void table_cell(struct table *table, enum table_colour colour, const char *format, ...)
{
	va_list arguments;
	char *text;
	int length;

	if (!table)
		return;
	if (table->count == table->capacity) {
		size_t capacity = max(table->capacity * 2, (size_t)64);
		struct table_entry *grown = reallocarray(table->cells, capacity, sizeof(*grown));

		if (!grown)
			return;
		table->cells = grown;
		table->capacity = capacity;
	}
	va_start(arguments, format);
	length = vasprintf(&text, format, arguments);
	va_end(arguments);
	if (length >= 0)
		table->cells[table->count++] = (struct table_entry){ .text = text, .colour = colour };
}

static const char *head_text(const char *head)
{
	return head + (*head == '>');
}

static unsigned column_width(const struct table *table, unsigned column)
{
	size_t width = strlen(head_text(table->heads[column]));

	for (size_t i = column; i < table->count; i += table->columns)
		width = max(width, strlen(table->cells[i].text));
	return (unsigned)width;
}

static void print_entry(FILE *stream, const char *text, unsigned width, bool right, bool last, const char *colour)
{
	unsigned length = (unsigned)strlen(text), padding = width - min(length, width);

	fprintf(stream, "%*s%s%s%s", right ? (int)padding : 0, "", colour, text, *colour ? "\033[0m" : "");
	if (!last)
		fprintf(stream, "%*s", (int)(right ? 0 : padding) + COLUMN_GAP, "");
}

void table_print(struct table *table, FILE *stream, bool colours)
{
	static const char *const codes[] = {
		[TABLE_PLAIN] = "", [TABLE_GOOD] = "\033[32m", [TABLE_BAD] = "\033[31m", [TABLE_DIM] = "\033[2m",
	};
	size_t printed;

	if (!table)
		return;
	printed = table->count - table->count % table->columns; /* whole rows */
	for (unsigned column = 0; printed && column < table->columns; column++)
		print_entry(stream, head_text(table->heads[column]), column_width(table, column),
			    *table->heads[column] == '>', column + 1 == table->columns, colours ? "\033[1m" : "");
	if (printed)
		fputc('\n', stream);
	for (size_t i = 0; i < printed; i++) {
		unsigned column = (unsigned)(i % table->columns);
		bool last = column + 1 == table->columns;

		print_entry(stream, table->cells[i].text, column_width(table, column),
			    *table->heads[column] == '>', last, colours ? codes[table->cells[i].colour] : "");
		if (last)
			fputc('\n', stream);
	}
	for (size_t i = 0; i < table->count; i++)
		free(table->cells[i].text);
	free(table->cells);
	free(table);
}

static const char *format_scaled(double value, double step, const char *prefixes, char text[FORMAT_NUMBER_SIZE])
{
	unsigned scale = 0;

	/* 999.5 would be shown as 1000: it belongs to the next prefix. */
	while (value >= step * 0.9995 && prefixes[scale + 1]) {
		value /= step;
		scale++;
	}
	if (!scale)
		snprintf(text, FORMAT_NUMBER_SIZE, "%.0f", value);
	else
		snprintf(text, FORMAT_NUMBER_SIZE, "%.*f%c", value < 9.995 ? 2 : value < 99.95 ? 1 : 0, value,
			 prefixes[scale]);
	return text;
}

const char *format_number(double value, char text[FORMAT_NUMBER_SIZE])
{
	return format_scaled(value, 1000, " kMGTP", text);
}

const char *format_size(uint64_t bytes, char text[FORMAT_NUMBER_SIZE])
{
	return format_scaled((double)bytes, 1024, " KMGTP", text);
}
