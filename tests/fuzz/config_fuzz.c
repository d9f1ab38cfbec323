/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Fuzz target: the configuration. Any text either becomes a configuration or one sentence that names the file; never
 * both, never neither.
 */
#include "control/config.h"
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct config *config;
	char *text, *error;
	int result;

	if (memchr(data, '\0', size)) /* config_load() refuses such files before it comes here */
		return -1;
	text = malloc(size + 1);
	fuzz_require(text);
	memcpy(text, data, size);
	text[size] = '\0';
	result = config_load_text("fuzz.yaml", text, &config, &error);
	if (result)
		fuzz_require(!config && error && !strncmp(error, "fuzz.yaml", 9));
	else
		fuzz_require(config && !error);
	config_free(config);
	free(error);
	free(text);
	return 0;
}
