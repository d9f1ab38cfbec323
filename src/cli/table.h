/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Aligned tables for people. Cells are added row by row; widths are known when the table is printed. On a terminal that
 * is too narrow, columns that can be spared are left out, the rightmost first; elsewhere a table is always whole.
 */
#ifndef CLI_TABLE_H
#define CLI_TABLE_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

enum table_colour {
	TABLE_PLAIN,
	TABLE_GOOD,
	TABLE_BAD,
	TABLE_DIM,
};

struct table;

/**
 * table_create() - begin a table.
 * @heads:	of the columns, NULL terminated and live until the end. One that starts with '>' is aligned to the
 *		right, one that starts with '?' can be spared; in this order where both are wanted.
 *
 * Return: NULL when out of memory; the other functions then do nothing.
 */
struct table *table_create(const char *const *heads);

/** table_cell() - the next cell, from left to right, row by row. */
void table_cell(struct table *table, enum table_colour colour, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/** table_print() - print and free; a table without rows prints nothing. */
void table_print(struct table *table, FILE *stream, bool colours);

#define FORMAT_NUMBER_SIZE 16

/** format_number() - "0", "950", "1.20k", "3.40M": three digits and a decimal prefix, for rates. Return: @text. */
const char *format_number(double value, char text[FORMAT_NUMBER_SIZE]);

/** format_size() - "512", "64.0K", "10.0G": binary multiples, for sizes. Return: @text. */
const char *format_size(uint64_t bytes, char text[FORMAT_NUMBER_SIZE]);

#endif
