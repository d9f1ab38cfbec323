/* SPDX-License-Identifier: BSD-3-Clause */
#include "cli/table.h"

#include <limits.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/checked.h"

#define COLUMN_GAP  2
#define COLUMNS_MAX 32

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
	while (heads[table->columns] && table->columns < COLUMNS_MAX)
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
	head += *head == '>';
	return head + (*head == '?');
}

static bool can_be_spared(const char *head)
{
	return head[*head == '>'] == '?';
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

/* Columns of the terminal behind @stream; UINT_MAX when it is none. */
static unsigned stream_width(FILE *stream)
{
	struct winsize size;

	return ioctl(fileno(stream), TIOCGWINSZ, &size) || !size.ws_col ? UINT_MAX : size.ws_col;
}

/* Width of each column, 0 for those that are left out. */
static void choose_columns(const struct table *table, unsigned limit, unsigned widths[COLUMNS_MAX])
{
	unsigned total = 0;

	for (unsigned column = 0; column < table->columns; column++) {
		widths[column] = column_width(table, column);
		total += widths[column] + (column ? COLUMN_GAP : 0);
	}
	for (unsigned column = table->columns; column-- && total > limit;) {
		if (!can_be_spared(table->heads[column]))
			continue;
		total -= widths[column] + COLUMN_GAP;
		widths[column] = 0;
	}
}

/* @cells: a row, or NULL for the heads. */
static void print_cells(const struct table *table, const struct table_entry *cells, const unsigned *widths,
			FILE *stream, bool colours)
{
	static const char *const codes[] = {
		[TABLE_PLAIN] = "",
		[TABLE_GOOD] = "\033[32m",
		[TABLE_BAD] = "\033[31m",
		[TABLE_DIM] = "\033[2m",
	};

	for (unsigned column = 0; column < table->columns; column++) {
		const char *head = table->heads[column];
		const char *colour = cells ? codes[cells[column].colour] : "\033[1m";

		if (widths[column])
			print_entry(stream, cells ? cells[column].text : head_text(head), widths[column], *head == '>',
				    column + 1 == table->columns, colours ? colour : "");
	}
	fputc('\n', stream);
}

void table_print(struct table *table, FILE *stream, bool colours)
{
	unsigned widths[COLUMNS_MAX];

	if (!table)
		return;
	choose_columns(table, stream_width(stream), widths);
	if (table->count >= table->columns)
		print_cells(table, NULL, widths, stream, colours);
	for (size_t i = 0; i + table->columns <= table->count; i += table->columns)
		print_cells(table, table->cells + i, widths, stream, colours);
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
		snprintf(text, FORMAT_NUMBER_SIZE, "%.*f%c",
			 value < 9.995	 ? 2
			 : value < 99.95 ? 1
					 : 0,
			 value, prefixes[scale]);
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
