/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What the specifications say in numbers: NVM Express Base Specification 2.0, NVM Command Set Specification 1.0, NVMe over
 * PCIe Transport Specification 1.0. Everything on the wire is little endian.
 */
#ifndef DEVICE_NVME_NVME_SPEC_H
#define DEVICE_NVME_NVME_SPEC_H

#include <stdint.h>

/* ---- registers (Base 3.1.3) ---- */

enum nvme_register {
	NVME_REG_CAP = 0x00,
	NVME_REG_VS = 0x08,
	NVME_REG_INTMS = 0x0c,
	NVME_REG_INTMC = 0x10,
	NVME_REG_CC = 0x14,
	NVME_REG_CSTS = 0x1c,
	NVME_REG_NSSR = 0x20,
	NVME_REG_AQA = 0x24,
	NVME_REG_ASQ = 0x28,
	NVME_REG_ACQ = 0x30,
	NVME_REG_CRTO = 0x68,
};

#define NVME_VERSION 0x00020000U

#define NVME_CAP_CQR	   (1ULL << 16) /* queues must be contiguous */
#define NVME_CAP_TO_SHIFT  24		/* units of 500 ms */
#define NVME_CAP_DSTRD	   32
#define NVME_CAP_NSSRS	   (1ULL << 36)
#define NVME_CAP_CSS_NVM   (1ULL << 37)
#define NVME_CAP_CSS_IOCSS (1ULL << 43) /* several I/O command sets, CNS 05h to 08h */
#define NVME_CAP_MPSMAX	   52
#define NVME_CAP_CRWMS	   (1ULL << 59) /* ready with media */

#define NVME_CC_EN	    (1U << 0)
#define NVME_CC_CSS(cc)	    ((cc) >> 4 & 7U)
#define NVME_CC_MPS(cc)	    ((cc) >> 7 & 15U)
#define NVME_CC_AMS(cc)	    ((cc) >> 11 & 7U)
#define NVME_CC_SHN(cc)	    ((cc) >> 14 & 3U)
#define NVME_CC_IOSQES(cc)  ((cc) >> 16 & 15U)
#define NVME_CC_IOCQES(cc)  ((cc) >> 20 & 15U)
#define NVME_CC_IMPLEMENTED 0x00fffff1U
#define NVME_CC_WHILE_OFF   0x00003ff0U /* CSS, MPS, AMS: to be changed only while EN is 0 */
#define NVME_SHN_NORMAL	    1U
#define NVME_CSS_NVM	    0U
#define NVME_CSS_ALL	    6U

#define NVME_CSTS_RDY	      (1U << 0)
#define NVME_CSTS_CFS	      (1U << 1)
#define NVME_CSTS_SHST_ACTIVE (1U << 2)
#define NVME_CSTS_SHST_DONE   (2U << 2)
#define NVME_CSTS_NSSRO	      (1U << 4)

#define NVME_NSSR_RESET 0x4e564d65U /* "NVMe" */

#define NVME_PAGE_SHIFT_MIN 12U

/* ---- queue entries (Base 3.3.3) ---- */

struct nvme_sgl {
	uint64_t address;
	uint32_t length;
	uint8_t reserved[3];
	uint8_t type; /* high nibble: type, low nibble: subtype */
};

#define NVME_SGL_DATA	      0x00U
#define NVME_SGL_SEGMENT      0x20U
#define NVME_SGL_LAST_SEGMENT 0x30U

struct nvme_command {
	uint8_t opcode;
	uint8_t flags; /* FUSE 1:0, PSDT 7:6 */
	uint16_t cid;
	uint32_t nsid;
	uint32_t dw2, dw3;
	uint64_t mptr;
	union {
		struct {
			uint64_t prp1, prp2;
		};
		struct nvme_sgl sgl;
	};
	uint32_t dw10, dw11, dw12, dw13, dw14, dw15;
};

#define NVME_FLAGS_FUSED     0x03U
#define NVME_FLAGS_RESERVED  0x3cU
#define NVME_FLAGS_PSDT	     0xc0U
#define NVME_PSDT_SGL_BUFFER 0x40U /* metadata pointer, if any, is a plain address */
#define NVME_PSDT_SGL	     0x80U

struct nvme_completion {
	uint32_t result;
	uint32_t dw1;
	uint16_t sq_head, sq_id;
	uint16_t cid;
	uint16_t status; /* phase in bit 0 */
};

_Static_assert(sizeof(struct nvme_command) == 64 && sizeof(struct nvme_completion) == 16 &&
		       sizeof(struct nvme_sgl) == 16,
	       "as on the wire");

#define NVME_COMMAND_SHIFT    6U
#define NVME_COMPLETION_SHIFT 4U

#define NVME_NSID_ALL 0xffffffffU

/* ---- commands ---- */

enum nvme_admin_opcode {
	NVME_ADMIN_DELETE_SQ = 0x00,
	NVME_ADMIN_CREATE_SQ = 0x01,
	NVME_ADMIN_GET_LOG_PAGE = 0x02,
	NVME_ADMIN_DELETE_CQ = 0x04,
	NVME_ADMIN_CREATE_CQ = 0x05,
	NVME_ADMIN_IDENTIFY = 0x06,
	NVME_ADMIN_ABORT = 0x08,
	NVME_ADMIN_SET_FEATURES = 0x09,
	NVME_ADMIN_GET_FEATURES = 0x0a,
	NVME_ADMIN_ASYNC_EVENT = 0x0c,
};

enum nvme_opcode {
	NVME_FLUSH = 0x00,
	NVME_WRITE = 0x01,
	NVME_READ = 0x02,
	NVME_COMPARE = 0x05,
	NVME_WRITE_ZEROES = 0x08,
	NVME_DATASET = 0x09,
	NVME_VERIFY = 0x0c,
};

#define NVME_RW_FUA	       (1U << 30) /* dw12 */
#define NVME_ZEROES_DEALLOCATE (1U << 25) /* dw12 of write zeroes */
#define NVME_DATASET_AD	       (1U << 2)  /* dw11: deallocate */
#define NVME_DATASET_RANGES    256U

struct nvme_dataset_range {
	uint32_t attributes;
	uint32_t blocks;
	uint64_t lba;
};

/* ---- status (Base 4.2.3): code, type << 8, and the flags above; without the phase bit ---- */

#define NVME_DNR  0x4000U /* do not retry */
#define NVME_MORE 0x2000U /* there is more about it in the error log */

enum nvme_status {
	NVME_SUCCESS = 0x000,
	NVME_INVALID_OPCODE = 0x001,
	NVME_INVALID_FIELD = 0x002,
	NVME_DATA_TRANSFER_ERROR = 0x004,
	NVME_INTERNAL_ERROR = 0x006,
	NVME_ABORT_REQUESTED = 0x007,
	NVME_INVALID_NAMESPACE = 0x00b,
	NVME_COMMAND_SEQUENCE = 0x00c,
	NVME_SGL_INVALID_SEGMENT = 0x00d,
	NVME_SGL_INVALID_COUNT = 0x00e,
	NVME_SGL_INVALID_LENGTH = 0x00f,
	NVME_SGL_INVALID_TYPE = 0x011,
	NVME_INVALID_PRP_OFFSET = 0x013,
	NVME_WRITE_PROTECTED = 0x020,
	NVME_LBA_OUT_OF_RANGE = 0x080,
	NVME_CAPACITY_EXCEEDED = 0x081,

	NVME_CQ_INVALID = 0x100,
	NVME_INVALID_QUEUE_ID = 0x101,
	NVME_INVALID_QUEUE_SIZE = 0x102,
	NVME_ABORT_LIMIT = 0x103,
	NVME_ASYNC_EVENT_LIMIT = 0x105,
	NVME_INVALID_VECTOR = 0x108,
	NVME_INVALID_LOG_PAGE = 0x109,
	NVME_INVALID_QUEUE_DELETION = 0x10c,
	NVME_FEATURE_NOT_SAVEABLE = 0x10d,
	NVME_FEATURE_NOT_CHANGEABLE = 0x10e,
	NVME_FEATURE_NOT_NAMESPACE = 0x10f,
	NVME_COMMAND_SETS_REJECTED = 0x12b,

	NVME_WRITE_FAULT = 0x280,
	NVME_READ_ERROR = 0x281,
	NVME_COMPARE_FAILURE = 0x285,
};

/* ---- asynchronous events (Base 5.2.1) ---- */

enum nvme_event_type {
	NVME_EVENT_ERROR = 0,
	NVME_EVENT_HEALTH = 1,
	NVME_EVENT_NOTICE = 2,
	NVME_EVENT_TYPES,
};

#define NVME_EVENT_INVALID_DOORBELL_REGISTER 0U
#define NVME_EVENT_INVALID_DOORBELL_VALUE    1U
#define NVME_EVENT_TEMPERATURE		     1U
#define NVME_EVENT_NAMESPACE_CHANGED	     0U

#define NVME_EVENT_CONFIG_HEALTH    0xffU     /* feature 0Bh: bits of the critical warning that are reported */
#define NVME_EVENT_CONFIG_NAMESPACE (1U << 8) /* feature 0Bh and OAES */
#define NVME_WARNING_TEMPERATURE    (1U << 1) /* critical warning */

/* ---- log pages (Base 5.16) ---- */

enum nvme_log {
	NVME_LOG_SUPPORTED = 0x00,
	NVME_LOG_ERROR = 0x01,
	NVME_LOG_SMART = 0x02,
	NVME_LOG_FIRMWARE = 0x03,
	NVME_LOG_CHANGED_NAMESPACES = 0x04,
	NVME_LOG_COMMANDS = 0x05,
	NVME_LOG_FEATURES = 0x12,
	NVME_LOG_MANAGEMENT = 0x13, /* NVMe-MI commands supported */
};

struct nvme_error_entry {
	uint64_t count;
	uint16_t sq_id, cid;
	uint16_t status; /* with the phase bit */
	uint16_t location;
	uint64_t lba;
	uint32_t nsid;
	uint8_t vendor, transport;
	uint8_t command_set, opcode;
	uint64_t command_specific;
	uint16_t transport_specific;
	uint8_t reserved[22];
};

_Static_assert(sizeof(struct nvme_error_entry) == 64, "as on the wire");

/* ---- features (Base 5.27.1) ---- */

enum nvme_feature_id {
	NVME_FEATURE_ARBITRATION = 0x01,
	NVME_FEATURE_POWER = 0x02,
	NVME_FEATURE_TEMPERATURE = 0x04,
	NVME_FEATURE_ERROR_RECOVERY = 0x05,
	NVME_FEATURE_WRITE_CACHE = 0x06,
	NVME_FEATURE_QUEUES = 0x07,
	NVME_FEATURE_COALESCING = 0x08,
	NVME_FEATURE_VECTOR = 0x09,
	NVME_FEATURE_ATOMICITY = 0x0a,
	NVME_FEATURE_EVENTS = 0x0b,
	NVME_FEATURE_TIMESTAMP = 0x0e,
	NVME_FEATURE_COMMAND_SETS = 0x19,
	NVME_FEATURE_SOFTWARE_PROGRESS = 0x80,
	NVME_FEATURE_HOST_ID = 0x81,
};

/* ---- identify (Base 5.17) ---- */

#define NVME_IDENTIFY_SIZE 4096U

enum nvme_cns {
	NVME_CNS_NAMESPACE = 0x00,
	NVME_CNS_CONTROLLER = 0x01,
	NVME_CNS_ACTIVE_LIST = 0x02,
	NVME_CNS_DESCRIPTORS = 0x03,
	NVME_CNS_SET_NAMESPACE = 0x05,
	NVME_CNS_SET_CONTROLLER = 0x06,
	NVME_CNS_SET_ACTIVE_LIST = 0x07,
	NVME_CNS_INDEPENDENT_NAMESPACE = 0x08,
	NVME_CNS_COMMAND_SETS = 0x1c,
};

#endif
