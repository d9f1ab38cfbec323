/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The stream uplink against peers that the test plays: well-behaved, in small pieces, slow, mad, gone and back. 4 bytes
 * of length in network order, then the frame.
 */
#include "uplink_probe.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

#define PEER_MAC "\x52\x54\x00\x00\x00\x02"

static char folder[] = "stream-test-XXXXXX"; /* in the working directory */

static struct sockaddr_un path_of(const char *name)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	snprintf(address.sun_path, sizeof(address.sun_path), "%s/%s", folder, name);
	return address;
}

static int listen_on(const struct sockaddr_un *address)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	unlink(address->sun_path);
	assert_int_equal(bind(fd, (const struct sockaddr *)address, sizeof(*address)), 0);
	assert_int_equal(listen(fd, 1), 0);
	return fd;
}

static int accept_peer(int listener)
{
	struct pollfd pollfd = { .fd = listener, .events = POLLIN };
	struct timeval timeout = { .tv_sec = 10 };
	int fd;

	assert_int_equal(poll(&pollfd, 1, 10000), 1);
	fd = accept(listener, NULL, NULL);
	assert_true(fd >= 0);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
	return fd;
}

static void wait_state(struct bench *bench, const char *state)
{
	wait_until(!strcmp(uplink_state(bench->uplink), state));
}

/* The peer sends a frame, in pieces of at most @piece bytes. */
static void peer_send(int fd, const uint8_t *frame, uint32_t length, size_t piece)
{
	uint8_t bytes[4 + FRAME_LENGTH_MAX];
	uint32_t prefix = htonl(length);

	memcpy(bytes, &prefix, 4);
	memcpy(bytes + 4, frame, length);
	for (size_t sent = 0; sent < length + 4;) {
		size_t left = min(piece, (size_t)length + 4 - sent);

		assert_int_equal(send(fd, bytes + sent, left, MSG_NOSIGNAL), left);
		sent += left;
		if (piece < 100)
			usleep(10);
	}
}

static void receive_all(int fd, void *to, size_t length)
{
	assert_int_equal(recv(fd, to, length, MSG_WAITALL), length);
}

static void peer_expect(int fd, const uint8_t *frame, uint32_t length)
{
	uint8_t bytes[FRAME_LENGTH_MAX];
	uint32_t prefix;

	receive_all(fd, &prefix, 4);
	assert_int_equal(ntohl(prefix), length);
	receive_all(fd, bytes, length);
	assert_memory_equal(bytes, frame, length);
}

static void both_ways(struct bench *bench, int peer)
{
	static const uint32_t lengths[] = { 14, 60, 64, 65, 1514, 9000, FRAME_LENGTH_MAX };
	uint8_t frame[FRAME_LENGTH_MAX];

	for (unsigned i = 0; i < array_size(lengths); i++) {
		make_frame(frame, lengths[i], PEER_MAC, i);
		peer_send(peer, frame, lengths[i], lengths[i] < 1600 ? 7 : 10000);
		probe_expect(bench, frame, lengths[i]);
		make_frame(frame, lengths[i], PROBE_MAC, i + 100);
		probe_send(bench, frame, lengths[i], NULL);
		peer_expect(peer, frame, lengths[i]);
	}
	/* Many at once. */
	for (unsigned i = 0; i < 500; i++) {
		make_frame(frame, 100 + i, PEER_MAC, i);
		peer_send(peer, frame, 100 + i, 100000);
	}
	for (unsigned i = 0; i < 500; i++) {
		make_frame(frame, 100 + i, PEER_MAC, i);
		probe_expect(bench, frame, 100 + i);
	}
}

static void test_connect(void **state)
{
	struct sockaddr_un address = path_of("connect");
	int listener = listen_on(&address), peer;
	struct bench *bench = bench_open(
		&(struct uplink_config){ .type = UPLINK_STREAM, .name = "test", .address = address.sun_path });

	peer = accept_peer(listener);
	wait_state(bench, "connected");
	both_ways(bench, peer);
	/* Asleep, and woken by either side. */
	expect_idle();
	both_ways(bench, peer);

	/* Gone, and back: another connection within about a second. */
	close(peer);
	wait_state(bench, "waiting for the peer; retries each second");
	expect_idle();
	peer = accept_peer(listener);
	wait_state(bench, "connected");
	both_ways(bench, peer);
	close(listener);
	close(peer);
	bench_close(bench);
}

static void test_peer_comes_late(void **state)
{
	struct sockaddr_un address = path_of("late");
	struct bench *bench = bench_open(
		&(struct uplink_config){ .type = UPLINK_STREAM, .name = "test", .address = address.sun_path });
	uint8_t frame[100];
	int listener, peer;

	make_frame(frame, sizeof(frame), PROBE_MAC, 1);
	probe_send(bench, frame, sizeof(frame), NULL);
	wait_until(uplink_counters(bench).drops[PORT_DROP_LINK_DOWN] == 1);
	usleep(300000);
	listener = listen_on(&address);
	peer = accept_peer(listener);
	wait_state(bench, "connected");
	both_ways(bench, peer);
	close(listener);
	close(peer);
	bench_close(bench);
}

static void test_listen(void **state)
{
	struct sockaddr_un address = path_of("listen");
	int left_behind = listen_on(&address), peer;
	struct bench *bench;

	close(left_behind); /* its socket stays in the folder, and is replaced */
	bench = bench_open(&(struct uplink_config){
		.type = UPLINK_STREAM, .name = "test", .address = address.sun_path, .listen = true });
	wait_state(bench, "waiting for the peer to connect");
	for (int i = 0; i < 3; i++) {
		struct timeval timeout = { .tv_sec = 10 };

		expect_idle();
		peer = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
		assert_int_equal(connect(peer, (struct sockaddr *)&address, sizeof(address)), 0);
		setsockopt(peer, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
		wait_state(bench, "connected");
		both_ways(bench, peer);
		close(peer);
		wait_state(bench, "waiting for the peer to connect");
	}

	/* Somebody who is alive is not replaced. */
	{
		struct uplink_config config = { .type = UPLINK_STREAM, .address = address.sun_path, .listen = true };
		struct uplink *second;
		const char *error;

		assert_int_equal(uplink_open(&config, bench->engine, bench->network, &second, &error), -EADDRINUSE);
	}
	bench_close(bench);
	assert_int_equal(access(address.sun_path, F_OK), -1);
}

static void test_tcp(void **state)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), peer;
	socklen_t length = sizeof(address);
	struct bench *bench;
	char text[32];

	assert_int_equal(bind(listener, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_int_equal(getsockname(listener, (struct sockaddr *)&address, &length), 0);
	snprintf(text, sizeof(text), "127.0.0.1:%u", ntohs(address.sin_port));
	/* Refused at first: nobody listens yet. */
	bench = bench_open(&(struct uplink_config){ .type = UPLINK_STREAM, .name = "test", .address = text });
	usleep(50000);
	wait_state(bench, "waiting for the peer; retries each second");
	assert_int_equal(listen(listener, 1), 0);
	peer = accept_peer(listener);
	wait_state(bench, "connected");
	both_ways(bench, peer);
	close(listener);
	close(peer);
	bench_close(bench);
}

/* After nonsense the connection is closed; the next one starts anew. */
static void test_bad_lengths(void **state)
{
	static const uint32_t lengths[] = { 0, FRAME_LENGTH_MAX + 1, 0x80000000, UINT32_MAX };
	struct sockaddr_un address = path_of("bad");
	int listener = listen_on(&address);
	struct bench *bench = bench_open(
		&(struct uplink_config){ .type = UPLINK_STREAM, .name = "test", .address = address.sun_path });

	for (unsigned i = 0; i < array_size(lengths); i++) {
		uint32_t prefix = htonl(lengths[i]);
		int peer = accept_peer(listener);
		uint8_t frame[60], byte;

		make_frame(frame, sizeof(frame), PEER_MAC, i);
		peer_send(peer, frame, sizeof(frame), 1000);
		assert_int_equal(send(peer, &prefix, 4, 0), 4);
		probe_expect(bench, frame, sizeof(frame)); /* what came before is forwarded */
		assert_int_equal(recv(peer, &byte, 1, 0), 0);
		close(peer);
	}
	/* Half a frame, then gone: it never arrives, and does not spoil the next connection. */
	for (int i = 0; i < 2; i++) {
		uint8_t frame[60], half[34] = { 0, 0, 0, 60 };
		int peer = accept_peer(listener);

		wait_state(bench, "connected");
		make_frame(frame, sizeof(frame), PEER_MAC, 50);
		peer_send(peer, frame, sizeof(frame), 1000);
		probe_expect(bench, frame, sizeof(frame));
		assert_int_equal(send(peer, half, sizeof(half), 0), sizeof(half));
		close(peer);
		wait_state(bench, "waiting for the peer; retries each second");
	}
	/* Runts are frames, but none that go anywhere. */
	{
		int peer = accept_peer(listener);

		peer_send(peer, (const uint8_t *)"x", 1, 1000);
		wait_until(uplink_counters(bench).drops[PORT_DROP_RUNT] == 1);
		wait_state(bench, "connected");
		close(peer);
	}
	close(listener);
	bench_close(bench);
}

/* A peer that does not read: buffers are bounded, the rest is dropped with its reason; what was taken arrives. */
static void test_slow_peer(void **state)
{
	struct sockaddr_un address = path_of("slow");
	int listener = listen_on(&address), peer;
	struct bench *bench = bench_open(
		&(struct uplink_config){ .type = UPLINK_STREAM, .name = "test", .address = address.sun_path });
	uint8_t frame[1500], got[1500];
	uint64_t delivered;
	uint32_t prefix;

	peer = accept_peer(listener);
	wait_state(bench, "connected");
	for (unsigned i = 0; i < 2000; i++) {
		make_frame(frame, sizeof(frame), PROBE_MAC, i);
		probe_send(bench, frame, sizeof(frame), NULL);
	}
	wait_until(uplink_counters(bench).out_frames + uplink_counters(bench).drops[PORT_DROP_FULL] == 2000);
	delivered = uplink_counters(bench).out_frames;
	assert_in_range(delivered, 300, 1999);
	/* Waiting for the peer costs nothing: the kernel tells when there is room. */
	expect_idle();
	for (uint64_t i = 0; i < delivered; i++) {
		receive_all(peer, &prefix, 4);
		assert_int_equal(ntohl(prefix), sizeof(frame));
		receive_all(peer, got, sizeof(got));
	}
	both_ways(bench, peer);
	close(listener);
	close(peer);
	bench_close(bench);
}

/* A receiver that is full: frames wait in the buffer, then are dropped there, by name; the stream goes on. */
static void test_full_receiver(void **state)
{
	struct sockaddr_un address = path_of("full");
	int listener = listen_on(&address), peer;
	struct bench *bench = bench_open(
		&(struct uplink_config){ .type = UPLINK_STREAM, .name = "test", .address = address.sun_path });
	uint8_t frame[1000], learn[60];
	struct port_counters sum;

	peer = accept_peer(listener);
	/* So that frames to the probe are for it alone: floods wait for nobody. */
	make_frame(learn, sizeof(learn), PROBE_MAC, 0);
	probe_send(bench, learn, sizeof(learn), NULL);
	peer_expect(peer, learn, sizeof(learn));
	probe_set_full(bench, true);
	for (unsigned i = 0; i < 10; i++) {
		make_frame(frame, sizeof(frame), PEER_MAC, i);
		memcpy(frame, PROBE_MAC, 6);
		peer_send(peer, frame, sizeof(frame), 100000);
	}
	for (int i = 0; i < 10000; i++) {
		port_read_counters(&bench->port, &sum);
		if (sum.drops[PORT_DROP_FULL] == 10)
			break;
		usleep(1000);
	}
	assert_int_equal(sum.drops[PORT_DROP_FULL], 10);
	probe_set_full(bench, false);
	both_ways(bench, peer);
	close(listener);
	close(peer);
	bench_close(bench);
}

/* QEMU itself as the peer: its stream on one port of its hub, its own user network, with a gateway that answers, on
 * another. */
static void test_qemu(void **state)
{
	static const uint8_t arp[60] = "\xff\xff\xff\xff\xff\xff\x52\x54\x00\x00\x00\x01\x08\x06"
				       "\x00\x01\x08\x00\x06\x04\x00\x01\x52\x54\x00\x00\x00\x01\x0a\x00\x02\x0f"
				       "\x00\x00\x00\x00\x00\x00\x0a\x00\x02\x02";
	struct sockaddr_un address = path_of("qemu");
	struct probe_frame *reply = NULL;
	struct bench *bench;
	char stream[200];
	pid_t qemu;

	if (access("/usr/bin/qemu-system-x86_64", X_OK)) {
		print_message("skipped: qemu-system-x86_64 is not installed\n");
		skip();
	}
	bench = bench_open(&(struct uplink_config){
		.type = UPLINK_STREAM, .name = "test", .address = address.sun_path, .listen = true });
	snprintf(stream, sizeof(stream), "stream,id=s,server=off,addr.type=unix,addr.path=%s", address.sun_path);
	qemu = fork();
	assert_true(qemu >= 0);
	if (!qemu) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		execl("/usr/bin/qemu-system-x86_64", "qemu-system-x86_64", "-M", "none", "-nodefaults", "-nographic",
		      "-monitor", "none", "-serial", "none", "-netdev", stream, "-netdev", "user,id=u", "-netdev",
		      "hubport,id=hs,hubid=0,netdev=s", "-netdev", "hubport,id=hu,hubid=0,netdev=u", NULL);
		_exit(127);
	}
	wait_state(bench, "connected");
	for (unsigned tries = 0; tries < 20 && !reply; tries++) {
		probe_send(bench, arp, sizeof(arp), NULL);
		reply = probe_receive(bench, 500);
	}
	assert_non_null(reply);
	assert_memory_equal(reply->bytes, PROBE_MAC, 6);
	assert_memory_equal(reply->bytes + 12, "\x08\x06\x00\x01\x08\x00\x06\x04\x00\x02", 10);
	assert_memory_equal(reply->bytes + 28, "\x0a\x00\x02\x02", 4);
	free(reply);
	kill(qemu, SIGKILL);
	waitpid(qemu, NULL, 0);
	wait_state(bench, "waiting for the peer to connect");
	bench_close(bench);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_connect),	      cmocka_unit_test(test_peer_comes_late),
		cmocka_unit_test(test_listen),	      cmocka_unit_test(test_tcp),
		cmocka_unit_test(test_bad_lengths),   cmocka_unit_test(test_slow_peer),
		cmocka_unit_test(test_full_receiver), cmocka_unit_test(test_qemu),
	};
	int failed;
	char command[64];

	if (!mkdtemp(folder))
		return 1;
	failed = cmocka_run_group_tests(tests, NULL, NULL);
	snprintf(command, sizeof(command), "rm -rf %s", folder);
	return system(command) || failed;
}
