/* SPDX-License-Identifier: BSD-3-Clause */
/* Registers and descriptors of Intel's cards as the client's driver sets them (net_intel.c); the server's: device/intel. */
#ifndef CLIENT_NET_INTEL_REGISTERS_H
#define CLIENT_NET_INTEL_REGISTERS_H

#define RX_BUFFER 2048u

/* Registers: 82576 datasheet 8, 82574 datasheet 10, 8254x manual 13. */
#define CTRL	   0x0000u
#define STATUS	   0x0008u
#define CTRL_EXT   0x0018u
#define ICR	   0x00c0u
#define IMS	   0x00d0u
#define IMC	   0x00d8u
#define EIAC_82574 0x00dcu
#define IAM	   0x00e0u
#define IVAR_82574 0x00e4u
#define RCTL	   0x0100u
#define TCTL	   0x0400u
#define TIPG	   0x0410u
#define GPIE	   0x1514u
#define EIMS	   0x1524u
#define EIMC	   0x1528u
#define EIAC	   0x152cu
#define EIAM	   0x1530u
#define EITR1	   0x1684u
#define IVAR0	   0x1700u
#define IVAR_MISC  0x1740u
#define RDBAL	   0x2800u
#define RDBAH	   0x2804u
#define RDLEN	   0x2808u
#define SRRCTL	   0x280cu
#define RDH	   0x2810u
#define RDT	   0x2818u
#define RXDCTL	   0x2828u
#define TDBAL	   0x3800u
#define TDBAH	   0x3804u
#define TDLEN	   0x3808u
#define TDH	   0x3810u
#define TDT	   0x3818u
#define TXDCTL	   0x3828u
#define RLPML	   0x5004u
#define RFCTL	   0x5008u
#define RAL0	   0x5400u
#define RAH0	   0x5404u

#define CTRL_SLU	 (1u << 6)
#define CTRL_RST	 (1u << 26)
#define STATUS_LU	 (1u << 1)
#define CTRL_EXT_PBA_CLR (1u << 31)
#define CTRL_EXT_EIAME	 (1u << 24)
#define CTRL_EXT_LOADED	 (1u << 28)
#define RCTL_SETTING                                                                                                   \
	(1u << 26 | 1u << 15 | 1u << 5 | 1u << 1) /* CRC stripped, broadcast, long packets, enabled; 2 KiB */
#define TCTL_SETTING   (0x40u << 12 | 0xfu << 4 | 1u << 3 | 1u << 1) /* collisions, short packets padded, enabled */
#define TIPG_SETTING   0x00602008u
#define RFCTL_EXTENDED (1u << 15)
#define DCTL_ENABLE    (1u << 25)
#define SRRCTL_SETTING                                                                                                 \
	(RX_BUFFER >> 10 | 256u << 2 | 1u << 25) /* advanced, one buffer; a size for headers, which Linux's igb gives */
#define RLPML_SETTING 1648u			 /* Linux's igb at an MTU of 1500 */
#define RAH_VALID     (1u << 31)
#define GPIE_SETTING                                                                                                   \
	(1u << 31 | 1u << 30 | 1u << 4 | 1u) /* PBA, EIAME, MSI-X with several vectors, non-selective clear */
#define IVAR_VALID	   0x80u
#define EITR_SETTING	   (56u | 1u << 31) /* 70,000 interrupts/s at most: igb's lowest latency */
#define IVAR_82574_SETTING (1u << 31 | (8u | 2u) << 16 | (8u | 1u) << 8 | 8u)
#define IMS_RXQ0	   (1u << 20)
#define IMS_TXQ0	   (1u << 22)
#define IMS_PIN		   (1u << 7 | 1u << 4 | 1u << 2 | 1u) /* receive timer, threshold, link, transmit done */

/* Bits of a data descriptor's upper half, alike in all three formats. */
#define CMD_EOP	 (1ULL << 24)
#define CMD_IFCS (1ULL << 25)
#define CMD_RS	 (1ULL << 27)
#define CMD_DEXT (1ULL << 29)

#endif
