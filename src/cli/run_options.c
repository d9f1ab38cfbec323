/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * `sidecore run`: its command line. What can be known to be wrong is said here, before anything is started: a missing
 * file is the name that was typed, not the complaint of a program three steps further on.
 */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/commands.h"
#include "cli/run.h"
#include "control/config.h"

/* Return: false, for the caller to return. */
static bool complain(const char *what, const char *why)
{
	fprintf(stderr, "sidecore run: %s: %s\n", what, why);
	return false;
}

static const char help[] =
	"Usage: sidecore run [OPTION]...\n"
	"\n"
	"Starts a sidecore daemon with a switch, a user-mode NAT uplink, and a network card and a disk for each\n"
	"guest; boots guests on it under QEMU; and takes a tour that shows and checks them at work. Exit status 0:\n"
	"every step passed.\n"
	"\n"
	"Guests\n"
	"  --guests N          how many (default 2, at most 16)\n"
	"  --memory MIB        of each (default 512)\n"
	"  --cpus N            of each (default 1)\n"
	"  --nic MODEL,...     network cards: virtio, or emulated, for guests that cannot be changed: igb, e1000e, e1000.\n"
	"                      Guests take them in turn (default virtio,igb; with your own guests virtio). Without KVM\n"
	"                      e1000e has posted doorbells; see sidecore.yaml(5)\n"
	"  --disk MODEL,...    disks: virtio or nvme (default virtio,nvme; with your own guests virtio)\n"
	"  --receive-coalescing\n"
	"                      igb cards deliver several TCP segments as one frame; limits: sidecore.yaml(5)\n"
	"  --queues N          queue pairs of the virtio card and queues of the virtio disk (default 1, at most 8)\n"
	"  --packed            packed virtqueues\n"
	"  --guest-folder DIR  built-in guest, as made by guest/build.sh (default build/guest)\n"
	"\n"
	"Your own guests: no tour; they run until they power off, or until Ctrl-C\n"
	"  --image FILE        raw image, the guest's disk, written to; once for each guest. Without --kernel it is\n"
	"                      booted from. For qcow2:\n"
	"                        qemu-nbd --format=qcow2 --socket=/tmp/q.sock --persistent IMAGE.qcow2 &\n"
	"                        sidecore run --image 'nbd+unix:///?socket=/tmp/q.sock'\n"
	"  --kernel FILE       boot this kernel\n"
	"  --initrd FILE       with this initial RAM disk\n"
	"  --append TEXT       further words for the kernel's command line, such as root=/dev/vda (nvme: /dev/nvme0n1)\n"
	"\n"
	"What to do\n"
	"  --console N         no tour: stay in the console of guest N (from 0); Ctrl-A X ends its QEMU\n"
	"  --keep              no tour: leave everything running until Ctrl-C\n"
	"  --json FILE         write the tour's results as JSON, too\n"
	"\n"
	"Host\n"
	"  --sidecores N       polling cores (default 1)\n"
	"  --disk-size SIZE    of the built-in guests' RAM disks (default 64M)\n"
	"  --qemu PROGRAM      (default qemu-system-x86_64; where a guest has an emulated device and that is older than\n"
	"                      10.1.1, one in build/qemu, made once by tools/qemu.sh)\n"
	"  --help              this text\n"
	"\n"
	"While it runs, \"sidecore status --control FOLDER/control.sock --watch\" shows the daemon at work; FOLDER is\n"
	"printed at the start of runs without a tour.\n";

static bool parse_count(const char *option, const char *text, unsigned maximum, unsigned *count)
{
	char *end;
	unsigned long value = strtoul(text, &end, 10);

	if (*end || end == text || *text == '-' || !value || value > maximum) {
		fprintf(stderr, "sidecore run: %s %s: a number from 1 to %u is wanted\n", option, text, maximum);
		return false;
	}
	*count = (unsigned)value;
	return true;
}

enum option_id {
	GUESTS = 1,
	MEMORY,
	CPUS,
	QUEUES,
	NIC,
	DISK,
	RECEIVE_COALESCING,
	PACKED,
	FOLDER,
	IMAGE,
	KERNEL,
	INITRD,
	APPEND,
	CONSOLE,
	KEEP,
	JSON,
	SIDECORES,
	DISK_SIZE,
	QEMU,
	HELP
};

static const struct option long_options[] = {
	{ "guests", required_argument, NULL, GUESTS },
	{ "memory", required_argument, NULL, MEMORY },
	{ "cpus", required_argument, NULL, CPUS },
	{ "queues", required_argument, NULL, QUEUES },
	{ "nic", required_argument, NULL, NIC },
	{ "disk", required_argument, NULL, DISK },
	{ "receive-coalescing", no_argument, NULL, RECEIVE_COALESCING },
	{ "packed", no_argument, NULL, PACKED },
	{ "guest-folder", required_argument, NULL, FOLDER },
	{ "image", required_argument, NULL, IMAGE },
	{ "kernel", required_argument, NULL, KERNEL },
	{ "initrd", required_argument, NULL, INITRD },
	{ "append", required_argument, NULL, APPEND },
	{ "console", required_argument, NULL, CONSOLE },
	{ "keep", no_argument, NULL, KEEP },
	{ "json", required_argument, NULL, JSON },
	{ "sidecores", required_argument, NULL, SIDECORES },
	{ "disk-size", required_argument, NULL, DISK_SIZE },
	{ "qemu", required_argument, NULL, QEMU },
	{ "help", no_argument, NULL, HELP },
	{ 0 },
};

/* Which of @count names the @length bytes at @text are; -1: none. */
static int find_model(const char *(*name)(int model), int count, const char *text, size_t length)
{
	for (int i = 0; i < count; i++) {
		if (strlen(name(i)) == length && !strncmp(name(i), text, length))
			return i;
	}
	return -1;
}

/* "virtio,igb": one model for each guest in turn. Return: how many; 0: a complaint has been printed. */
static unsigned parse_models(const char *option, const char *text, const char *(*name)(int model), int known, int *models)
{
	unsigned count = 0;

	for (;;) {
		size_t length = strcspn(text, ",");
		int model = find_model(name, known, text, length);

		if (model < 0 || count == RUN_GUESTS_MAX) {
			fprintf(stderr, "sidecore run: %s %.*s: ", option, (int)length, text);
			for (int i = 0; i < known && model < 0; i++)
				fprintf(stderr, "%s%s", i ? i == known - 1 ? " or " : ", " : "", name(i));
			fprintf(stderr, "%s\n", model < 0 ? " is wanted" : "there are no more than 16 guests");
			return 0;
		}
		models[count++] = model;
		if (!text[length])
			return count;
		text += length + 1;
	}
}

/* What is not said: built-in guests show both kinds, other people's images may have drivers for one only. */
static void choose_models(struct run_options *options)
{
	bool both = !run_own_guests(options);

	options->models_chosen = options->nic_count || options->disk_count;
	if (!options->nic_count) {
		options->nics[0] = CONFIG_NIC_VIRTIO;
		options->nics[1] = CONFIG_NIC_IGB;
		options->nic_count = both ? 2 : 1;
	}
	if (!options->disk_count) {
		options->disks[0] = CONFIG_DISK_VIRTIO;
		options->disks[1] = CONFIG_DISK_NVME;
		options->disk_count = both ? 2 : 1;
	}
}

/* Is there a card that --receive-coalescing is for? */
static bool check_coalescing(const struct run_options *options)
{
	for (unsigned i = 0; options->receive_coalescing && i < options->guests; i++) {
		if (options->nics[i % options->nic_count] == CONFIG_NIC_IGB)
			return true;
	}
	return !options->receive_coalescing ||
	       complain("--receive-coalescing", "no guest has a card of model igb; add --nic igb");
}

/* Return: false: a complaint has been printed. */
static bool take_option(struct run_options *options, int option)
{
	char *end;

	switch (option) {
	case GUESTS:
		return parse_count("--guests", optarg, RUN_GUESTS_MAX, &options->guests);
	case MEMORY:
		return parse_count("--memory", optarg, 1U << 20, &options->memory);
	case CPUS:
		return parse_count("--cpus", optarg, 256, &options->cpus);
	case QUEUES:
		return parse_count("--queues", optarg, 8, &options->queues);
	case SIDECORES:
		return parse_count("--sidecores", optarg, 64, &options->sidecores);
	case NIC:
		options->nic_count = parse_models("--nic", optarg, config_nic_model_name, CONFIG_NIC_E1000 + 1, options->nics);
		return options->nic_count;
	case DISK:
		options->disk_count =
			parse_models("--disk", optarg, config_disk_model_name, CONFIG_DISK_NVME + 1, options->disks);
		return options->disk_count;
	case RECEIVE_COALESCING:
		options->receive_coalescing = true;
		return true;
	case PACKED:
		options->packed = true;
		return true;
	case FOLDER:
		options->guest_folder = optarg;
		return true;
	case KERNEL:
		options->kernel = optarg;
		return true;
	case INITRD:
		options->initrd = optarg;
		return true;
	case APPEND:
		options->append = optarg;
		return true;
	case KEEP:
		options->keep = true;
		return true;
	case JSON:
		options->json = optarg;
		return true;
	case DISK_SIZE:
		options->disk_size = optarg;
		return true;
	case QEMU:
		options->qemu = optarg;
		return true;
	case IMAGE:
		if (options->image_count == RUN_GUESTS_MAX)
			return complain("--image", "at most 16");
		options->images[options->image_count++] = optarg;
		return true;
	case CONSOLE:
		options->console = (int)strtol(optarg, &end, 10);
		if (*end || end == optarg || options->console < 0)
			return complain("--console", "the number of a guest is wanted, from 0");
		return true;
	default:
		return false;
	}
}

bool run_own_guests(const struct run_options *options)
{
	return options->kernel || options->image_count;
}

bool run_tour_wanted(const struct run_options *options)
{
	return !run_own_guests(options) && !options->keep && options->console < 0;
}

static bool check_readable(const char *option, const char *path)
{
	char what[PATH_MAX + 32];

	if (!path || !access(path, R_OK))
		return true;
	snprintf(what, sizeof(what), "%s %s", option, path);
	return complain(what, strerror(errno));
}

static bool check_files(const struct run_options *options)
{
	for (unsigned i = 0; i < options->image_count; i++) {
		if (!run_image_is_nbd(options->images[i]) && !check_readable("--image", options->images[i]))
			return false;
	}
	return check_readable("--kernel", options->kernel) && check_readable("--initrd", options->initrd);
}

/* Minutes of work end with this file: whether it can be written is known beforehand. */
static bool check_json(const struct run_options *options)
{
	char what[PATH_MAX + 32];
	FILE *file;

	if (!options->json)
		return true;
	file = fopen(options->json, "a");
	if (file) {
		fclose(file);
		return true;
	}
	snprintf(what, sizeof(what), "--json %s", options->json);
	return complain(what, strerror(errno));
}

static bool check_host(const struct run_options *options)
{
	uint64_t size;
	cpu_set_t allowed;

	if (!sched_getaffinity(0, sizeof(allowed), &allowed) && options->sidecores > (unsigned)CPU_COUNT(&allowed)) {
		fprintf(stderr,
			"sidecore run: --sidecores %u: each needs a CPU of its own, and this process may use %d\n",
			options->sidecores, CPU_COUNT(&allowed));
		return false;
	}
	if (config_parse_size(options->disk_size, &size))
		return complain("--disk-size", "a size is wanted: bytes, or a number with K, M, G or T");
	if (run_tour_wanted(options) && size < RUN_TOUR_DISK_MIN)
		return complain("--disk-size", "the tour needs 64M at least");
	return true;
}

static bool check_guest_image(const struct run_options *options)
{
	char path[PATH_MAX];

	if (run_own_guests(options))
		return true;
	snprintf(path, sizeof(path), "%s/initrd.img", options->guest_folder);
	if (!access(path, R_OK))
		return true;
	fprintf(stderr,
		"sidecore run: there is no guest image in %s\n"
		"make it with \"guest/build.sh %s\", name its folder with --guest-folder,\n"
		"or bring your own guest: --kernel, --image (see --help)\n",
		options->guest_folder, options->guest_folder);
	return false;
}

/* What the options mean together, and whether what they name is there. */
static bool check_options(struct run_options *options)
{
	if (options->image_count && !options->kernel && options->guests != options->image_count)
		options->guests = options->image_count; /* a guest for each image */
	if (options->image_count > options->guests)
		return complain("--image", "more images than guests");
	if (options->console >= (int)options->guests)
		return complain("--console", "there is no such guest; the first is 0");
	if (options->initrd && !options->kernel)
		return complain("--initrd", "only together with --kernel");
	if (options->json && !run_tour_wanted(options))
		return complain("--json",
				"only the tour has results; leave out --keep, --console, --kernel and --image");
	if (options->append && options->image_count && !options->kernel)
		return complain("--append",
				"only with --kernel or the built-in guest; an image brings its own command line");
	return true;
}

bool run_parse_options(int argc, char **argv, struct run_options *options, int *status)
{
	int option;

	*options = (struct run_options){ .guests = 2,
					 .memory = 512,
					 .cpus = 1,
					 .sidecores = 1,
					 .queues = 1,
					 .disk_size = "64M",
					 .guest_folder = "build/guest",
					 .console = -1 };
	*status = EXIT_USAGE;
	while ((option = getopt_long(argc, argv, "h", long_options, NULL)) != -1) {
		if (option == HELP || option == 'h') {
			fputs(help, stdout);
			*status = EXIT_SUCCESS;
			return false;
		}
		if (!take_option(options, option)) {
			fputs("sidecore run --help lists the options\n", stderr);
			return false;
		}
	}
	if (optind < argc) {
		fprintf(stderr, "sidecore run: \"%s\" is one word too many; --help lists the options\n", argv[optind]);
		return false;
	}
	if (!check_options(options))
		return false;
	choose_models(options);
	if (!check_coalescing(options))
		return false;
	*status = EXIT_FAILURE;
	return check_files(options) && check_host(options) && check_guest_image(options) && check_json(options);
}
