/* SPDX-License-Identifier: BSD-3-Clause */
/* Uplinks that lead nowhere (null, source), and what all uplinks refuse. */
#include "uplink_probe.h"

static void test_null(void **state)
{
	struct bench *bench = bench_open(&(struct uplink_config){ .type = UPLINK_NULL, .name = "test" });
	uint8_t frame[1000];

	for (unsigned i = 0; i < 100; i++) {
		make_frame(frame, sizeof(frame), PROBE_MAC, i);
		probe_send(bench, frame, sizeof(frame), NULL);
	}
	wait_until(uplink_counters(bench).out_frames == 100);
	assert_int_equal(uplink_counters(bench).out_bytes, 100 * sizeof(frame));
	assert_string_equal(uplink_port(bench->uplink)->ops->kind, "null");
	assert_non_null(uplink_state(bench->uplink));
	expect_idle();
	bench_close(bench);
}

static const struct {
	uint32_t size, first_length;
} sizes[] = {
	/* 0 */ { 0, 64 },
	/* 1 */ { 60, 60 },
	/* 2 */ { 1522, 1522 },
	/* 3 */ { 65549, 14 + 20 + 20 + 1448 }, /* a GSO segment, cut for the probe, which has no abilities */
	/* 4 */ { 1523, 14 + 20 + 20 + 1448 },
};

static void test_source(void **state)
{
	for (size_t i = 0; i < array_size(sizes); i++) {
		struct bench *bench = bench_open(NULL);
		struct uplink_config config = { .type = UPLINK_SOURCE, .name = "test", .size = sizes[i].size };
		struct probe_frame *received;
		const char *error;
		uint8_t frame[60];

		atomic_store(&bench->keep_limit, 1000);
		assert_int_equal(uplink_open(&config, bench->engine, bench->network, &bench->uplink, &error), 0);
		/* To all, until it has heard somebody. */
		received = probe_receive(bench, 5000);
		assert_non_null(received);
		assert_int_equal(received->length, sizes[i].first_length);
		assert_memory_equal(received->bytes, BROADCAST_MAC, 6);
		free(received);

		make_frame(frame, sizeof(frame), PROBE_MAC, 0);
		probe_send(bench, frame, sizeof(frame), NULL);
		wait_until(uplink_counters(bench).out_frames == 1);
		while ((received = probe_receive(bench, 0)))
			free(received);
		pthread_mutex_lock(&bench->lock);
		bench->received_count = 0;
		pthread_mutex_unlock(&bench->lock);
		for (int skip = 0; skip < 100; skip++) /* the batch that was under way */
			free(probe_receive(bench, 5000));
		received = probe_receive(bench, 5000);
		assert_non_null(received);
		assert_memory_equal(received->bytes, PROBE_MAC, 6);
		free(received);
		bench_close(bench);
	}
}

static const struct uplink_config refused[] = {
	/* 0 */ { .type = UPLINK_NONE },
	/* 1 */ { .type = (enum uplink_type)77 },
	/* 2 */ { .type = UPLINK_SOURCE, .size = 59 },
	/* 3 */ { .type = UPLINK_SOURCE, .size = 65550 },
	/* 4 */ { .type = UPLINK_TAP },
	/* 5 */ { .type = UPLINK_TAP, .interface = "" },
	/* 6 */ { .type = UPLINK_TAP, .interface = "sixteen-letters-" },
	/* 7 */ { .type = UPLINK_TAP, .interface = "tap%d" },
	/* 8 */ { .type = UPLINK_TAP, .interface = "tap0", .queues = 17 },
	/* 9 */ { .type = UPLINK_STREAM },
	/* 10 */ { .type = UPLINK_STREAM, .address = "neither" },
	/* 11 */ { .type = UPLINK_STREAM, .address = "127.0.0.1:" },
	/* 12 */ { .type = UPLINK_STREAM, .address = "/no/such/folder/socket", .listen = true },
	/* 13 */
	{ .type = UPLINK_STREAM,
	  .address = "/a-path-that-is-much-too-long-for-a-unix-socket-address-which-"
		     "can-have-no-more-than-one-hundred-and-seven-bytes-in-all" },
	/* 14 */ { .type = UPLINK_SLIRP, .net4 = "10.0.2.0" },
	/* 15 */ { .type = UPLINK_SLIRP, .net4 = "10.0.2.0/28" },
	/* 16 */ { .type = UPLINK_SLIRP, .net4 = "10.0.2.0/7" },
	/* 17 */ { .type = UPLINK_SLIRP, .net4 = "10.0.2.1/24" },
	/* 18 */ { .type = UPLINK_SLIRP, .net4 = "10.0.256.0/24" },
	/* 19 */ { .type = UPLINK_SLIRP, .net4 = "10.0.2.0/24 " },
	/* 20 */ { .type = UPLINK_SLIRP, .forwards = (const char *const[]){ "tcp:127.0.0.1:22-10.0.2.15", NULL } },
	/* 21 */
	{ .type = UPLINK_SLIRP, .forwards = (const char *const[]){ "tcp:127.0.0.1:99999-10.0.2.15:22", NULL } },
	/* 22 */ { .type = UPLINK_SLIRP, .forwards = (const char *const[]){ "sctp:127.0.0.1:22-10.0.2.15:22", NULL } },
	/* 23 */ { .type = UPLINK_SLIRP, .forwards = (const char *const[]){ "tcp:127.0.0.1:22-10.0.2.15:22x", NULL } },
};

static void test_refused(void **state)
{
	struct bench *bench = bench_open(NULL);

	for (size_t i = 0; i < array_size(refused); i++) {
		struct uplink *uplink = NULL;
		const char *error = NULL;

		if (uplink_open(&refused[i], bench->engine, bench->network, &uplink, &error) >= 0 || uplink)
			fail_msg("case %zu was not refused", i);
		if (!error || strlen(error) < 20)
			fail_msg("case %zu: no reason given", i);
	}
	/* Nothing is left behind: the probe is alone. */
	assert_int_equal(engine_pick_sidecore(bench->engine)->poller_count, 1);
	bench_close(bench);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_null),
		cmocka_unit_test(test_source),
		cmocka_unit_test(test_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
