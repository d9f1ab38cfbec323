/* SPDX-License-Identifier: BSD-3-Clause */
#include <stdio.h>

int main(void)
{
	puts("sidecore " SIDECORE_VERSION);
	return 0;
}
